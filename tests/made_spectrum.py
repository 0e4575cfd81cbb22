"""The content of spectrum.json, made by hand."""

CHANCE = {"low": 0.48, "high": 0.52, "mean": 0.5}


def measures(share, power=(6.0, 2.0), white=(4.0, 4.0)):
    if share is None:
        zero = [0.0, 0.0]
        return {
            "norm": 0.0, "share_above": None, "power": zero, "white": zero,
            "null": {"share_above": None, "power": {"low": zero, "high": zero}},
        }  # fmt: skip
    return {
        "norm": 8**0.5, "share_above": share, "power": list(power), "white": list(white),
        "null": {"share_above": CHANCE, "power": {"low": [3.0, 3.5], "high": [5.0, 4.5]}},
    }  # fmt: skip


def adapter(label, share=0.25, zero=False):
    parts = {
        "A": measures(share),
        "B": measures(None if zero else 0.5),
        "delta": measures(None if zero else 0.75, power=(1.0, 7.0), white=(2.0, 6.0)),
    }
    return {
        "label": label,
        "modules": 2,
        "unpaired": [],
        "overall": parts,
        "types": {"gate_proj": parts},
        "layers": [{"layer": 0, **parts}, {"layer": 7, **parts}, {"layer": None, **parts}],
        "map": None if zero else {"power": [[1.0, 3.0], [2.0, 2.0]], "white": [[2.0, 2.0], [2.0, 2.0]]},
    }


def content(*adapters):
    return {"threshold": 0.4, "permutations": 39, "seed": 0, "bands": 2, "adapters": list(adapters)}
