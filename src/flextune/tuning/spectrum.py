"""Where in frequency the energy of LoRA factors lies, and whether chance would put it there; from adapters alone.

    spectrum(["runs/plain/adapter", "runs/fourier/adapter"], threshold=0.5)

A factor W with N entries has ŵ = rfft(flatten(W), norm="ortho") with n = N // 2 + 1 bins and the power
p_k = c_k |ŵ_k|², where c_k = 1 at k = 0 (and at the Nyquist bin of an even N) and 2 elsewhere, so Σ p_k = ‖W‖². Bin k
has the relative frequency k / n, as in the Fourier penalty, whose threshold is a share of n.

ΔW = s · B A has a spectrum along both its axes, which needs neither ΔW nor a 2-D transform. With b̂_k and â_l the bins
of B along the outputs and of A along the inputs (vectors of r entries), the power in bands p × q, both signs of either
frequency included, is

    Σ_{k∈p, l∈q} c_k c_l · mean(|b̂_k·â_l|², |b̂_k·â_l*|²) = ⟨P_p, Q_q⟩,   P_p = Σ_{k∈p} c_k Re(b̂_k b̂_k^H), Q_q likewise.

Bins (k, l) count as of frequency max(k / n, l / m): high along either axis is high.

The null hypothesis is that the order of entries carries nothing: the factor's entries are permuted at random; for ΔW
the rows of B and the columns of A are (the order of channels is arbitrary). Under it, a value lies outside the range of
39 permutations with probability 2 / 40 = 5 %: of a whole curve, some bands will. Permuting the entries of A or B also
mixes ranks, so ranks of very different size or mean are no chance either; ΔW knows nothing of ranks.

Shapes: C permutations of a chunk, X rows (the truth, permutations, white noise), N, M entries, F bins, R rank, S cuts,
B bands.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import pad

from flextune.errors import FlextuneError, UsageError
from flextune.files import read_json
from flextune.progress import progress
from flextune.tuning.forms import edges

CHUNK = 2**21
"""Entries that are permuted and transformed at once; bounds memory."""

FACTOR = re.compile(r"(?P<module>.+)\.lora_(embedding_)?(?P<part>[AB])(\.weight)?")
"""A factor's name in a saved adapter; neither `lora_B.bias` nor `lora_magnitude_vector` nor a saved module matches."""

Content = dict[str, Any]


def spectrum(
    folders: Sequence[str | Path], threshold: float = 0.5, permutations: int = 39, seed: int = 0, bands: int = 32
) -> Content:
    """Measure the spectra of LoRA adapters, and of their random permutations.

    Args:
        folders: PEFT adapter folders (`adapter_config.json`, `adapter_model.safetensors`).
        threshold: T in (0, 1]: the relative frequency above which power counts as high.
        permutations: How many random permutations make up the null hypothesis; at least 1.
        seed: Of the permutations. Each adapter starts from it anew, so its numbers do not depend on its neighbours.
        bands: Into how many bands of equal width the relative frequency is divided.

    Returns:
        JSON-able content: the arguments, and `adapters`, a list with, for each,

        - `label` (`labels`), `folder`, `modules`, `ranks`, `unpaired` (modules
          whose A and B do not multiply, as in mixtures of experts; they have no ΔW), and
        - `overall`, `types` (by the last part of the module's name) and `layers` (a list; `layer` is the first number
          in the module's name, or None), each with the entries `A`, `B` and `delta`:
          `norm` (Frobenius), `share_above` (of the power; None where there is none, as in ΔW before the first step),
          `power` and `white` for each band (what is there, and what white noise of equal norms would have there), and
          `null`: `share_above` (low, high, mean; or None) and `power` (low and high for each band);
        - `map`: `power` and `white` of ΔW, outputs' bands × inputs' bands.

        Power adds up over modules, each permuted independently. ΔW is the low-rank product: what DoRA makes of it
        depends on the base model, and is not seen here.

    Raises:
        UsageError: An argument is out of its range, a folder is no LoRA adapter, or a factor is not finite.
        FlextuneError: A file is broken.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"threshold = {threshold}: expected a number in (0, 1]")
    for name, number in (("permutations", permutations), ("bands", bands)):
        if number < 1:
            raise UsageError(f"{name} = {number}: expected an integer of at least 1")
    adapters = [Adapter(Path(folder)) for folder in folders]
    if not adapters:
        raise UsageError("folders is empty: expected at least one adapter folder")
    names = labels([adapter.folder for adapter in adapters])
    cuts = Cuts(threshold, bands)
    return {
        "threshold": threshold,
        "permutations": permutations,
        "seed": seed,
        "bands": bands,
        "adapters": [
            {"label": label, "folder": str(adapter.folder), **_measure(adapter, label, cuts, permutations, seed)}
            for label, adapter in zip(names, adapters, strict=True)
        ],
    }


def labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart, without the `adapter` that every run directory has.

    >>> labels([Path("/runs/plain/adapter"), Path("/runs/fourier/adapter")])
    ['plain', 'fourier']
    """
    paths = [folder.resolve() for folder in folders]
    for path in paths:
        if paths.count(path) > 1:
            raise UsageError(f"{path} is named twice: expected different adapter folders")
    runs = [path.parent if path.name == "adapter" else path for path in paths]
    paths = runs if len(set(runs)) == len(runs) else paths
    ends = [path.name for path in paths]
    depth = 1
    while len(set(ends)) < len(ends):
        depth += 1
        ends = ["/".join(path.parts[-depth:]) for path in paths]
    return ends


class Adapter:
    """A PEFT folder: which LoRA factors it has, and each as a tensor when asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        config, self.weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder: expected a PEFT adapter folder")
        if not config.exists():
            inner = [path.parent for path in sorted(folder.glob(f"*/{config.name}"))]
            hint = f"; did you mean {' or '.join(map(str, inner[:3]))}?" if inner else ""
            raise UsageError(f"{folder} is not a PEFT adapter: it has no {config.name}{hint}")
        self.config = read_json(config)
        kind = self.config.get("peft_type") if isinstance(self.config, dict) else None
        if kind != "LORA":
            raise UsageError(f"{config}: peft_type is {kind!r}, expected 'LORA'")
        if not self.weights.exists():
            found = ", ".join(sorted(path.name for path in folder.iterdir()))
            raise UsageError(
                f"{folder} has no {self.weights.name} (found {found}): load the adapter with PEFT where it was made, "
                "and save it with save_pretrained(folder)"
            )
        self.modules = self._modules()
        """The names of the tensors A and B of each module."""

    def _modules(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        try:
            with safe_open(self.weights, "pt") as file:
                names = sorted(file.keys())
        except SafetensorError as error:
            raise FlextuneError(f"{self.weights} is not a whole safetensors file ({error}); copy it again") from None
        for name in names:
            if match := FACTOR.fullmatch(name):
                found.setdefault(match["module"].removeprefix("base_model.model."), {})[match["part"]] = name
        if not found:
            raise UsageError(f"{self.weights} has no LoRA factors: it has {', '.join(names[:3]) or 'no tensors'} …")
        return found

    def factors(self, module: str) -> dict[str, Tensor]:
        """A (R × inputs) and B (outputs × R) of a module as float32 matrices; those of a convolution are flattened."""
        factors = {}
        with safe_open(self.weights, "pt") as file:
            for part, name in self.modules[module].items():
                tensor = file.get_tensor(name).float()
                if tensor.dim() < 2 or not tensor.numel():
                    raise UsageError(f"{self.weights}: {name} has the shape {tuple(tensor.shape)}, expected a matrix")
                if not tensor.isfinite().all():
                    raise UsageError(f"{self.weights}: {name} has entries that are not finite; name a sound adapter")
                factors[part] = tensor.flatten(1)
        return factors

    def rank_and_scale(self, module: str) -> tuple[int, float]:
        """The rank r of a module and s in ΔW = s · B A: alpha / r, or alpha / √r if the adapter is rank-stabilised."""
        from peft.utils.other import get_pattern_key

        def setting(name: str, pattern: str) -> float:
            by_pattern = self.config.get(pattern) or {}
            value: float = by_pattern.get(get_pattern_key(by_pattern, module), self.config.get(name, 8))
            return value

        rank, alpha = int(setting("r", "rank_pattern")), setting("lora_alpha", "alpha_pattern")
        return rank, alpha / (rank**0.5 if self.config.get("use_rslora") else rank)


@dataclass(frozen=True)
class Cuts:
    """The relative frequencies below which power is summed: the edges of bands, and the threshold."""

    threshold: float
    bands: int

    @cached_property
    def shares(self) -> list[float]:
        """In ascending order, from 0 to 1."""
        return sorted({*(band / self.bands for band in range(self.bands + 1)), self.threshold})

    @cached_property
    def edges(self) -> list[int]:
        """Where in `shares` the edges of bands are."""
        return [self.shares.index(band / self.bands) for band in range(self.bands + 1)]

    def bins(self, size: int) -> Tensor:
        """For each share, how many bins of a signal of `size` entries lie below it; shape S."""
        count = size // 2 + 1
        frequency_F = torch.arange(count, dtype=torch.float64) / count
        return torch.searchsorted(frequency_F, torch.tensor(self.shares, dtype=torch.float64))

    def describe(self, power_XS: Tensor) -> Content:
        """Power below each cut as the content of the file; rows: the truth, permutations, white noise."""
        power_XB = power_XS[:, self.edges].diff(dim=-1)
        power_B, null_PB, white_B = power_XB[0], power_XB[1:-1], power_XB[-1]
        total = power_XS[0, -1].item()
        content: Content = {
            "norm": total**0.5,
            "share_above": None,
            "power": power_B.tolist(),
            "white": white_B.tolist(),
        }
        null: Content = {"share_above": None}
        if total > 0:
            above_X = (1 - power_XS[:, self.shares.index(self.threshold)] / power_XS[:, -1]).clamp(min=0)
            content["share_above"] = above_X[0].item()
            low, high = above_X[1:-1].aminmax()
            null["share_above"] = {"low": low.item(), "high": high.item(), "mean": above_X[1:-1].mean().item()}
        null["power"] = {"low": null_PB.amin(0).tolist(), "high": null_PB.amax(0).tolist()}
        return {**content, "null": null}


def _measure(adapter: Adapter, label: str, cuts: Cuts, permutations: int, seed: int) -> Content:
    """Everything about one adapter, module by module."""
    generator = torch.Generator().manual_seed(seed)
    nothing_XS = torch.zeros(permutations + 2, len(cuts.shares), dtype=torch.float64)
    groups: dict[tuple[str, str | int | None], dict[str, Tensor]] = {("overall", None): {}}
    maps, unpaired, ranks = [], [], set()
    with progress(f"spectrum of {label}", len(adapter.modules)) as step:
        for module in adapter.modules:
            factors = adapter.factors(module)
            rank, scale = adapter.rank_and_scale(module)
            power = {part: factor_power(w.flatten(), cuts, permutations, generator) for part, w in factors.items()}
            if factors.keys() == {"A", "B"} and factors["A"].shape[0] == factors["B"].shape[1] == rank:
                power["delta"], map_YSS = product_power(
                    factors["A"], factors["B"] * scale, cuts, permutations, generator
                )
                maps.append(map_YSS)
                ranks.add(rank)
            else:
                unpaired.append(module)
            path = [name for name in module.split(".") if name != "base_layer"]  # PEFT's, of a parameter in a module
            layer = next((int(name) for name in path if name.isdigit()), None)
            for group in (("overall", None), ("types", path[-1]), ("layers", layer)):
                sums = groups.setdefault(group, {})
                for part, power_XS in power.items():
                    sums[part] = sums.get(part, nothing_XS) + power_XS
            step()

    described = {
        group: {part: cuts.describe(sums.get(part, nothing_XS)) for part in ("A", "B", "delta")}
        for group, sums in groups.items()
    }
    layers = [{"layer": layer, **parts} for (kind, layer), parts in described.items() if kind == "layers"]
    overall = described["overall", None]
    return {
        "modules": len(adapter.modules),
        "ranks": sorted(ranks),
        "unpaired": unpaired,
        "overall": overall,
        "types": {name: parts for (kind, name), parts in described.items() if kind == "types"},
        "layers": sorted(layers, key=lambda entry: (entry["layer"] is None, entry["layer"])),
        "map": _describe_map(torch.stack(maps).sum(0), cuts) if overall["delta"]["norm"] else None,
    }


def _describe_map(map_YSS: Tensor, cuts: Cuts) -> Content:
    map_YBB = map_YSS[:, cuts.edges][:, :, cuts.edges].diff(dim=1).diff(dim=2).clamp(min=0)
    return {"power": map_YBB[0].tolist(), "white": map_YBB[1].tolist()}


def factor_power(w_N: Tensor, cuts: Cuts, permutations: int, generator: torch.Generator) -> Tensor:
    """Power of a factor below each cut, float64, rows as in `Cuts.describe`; zero for a factor of zeros.

    >>> factor_power(torch.ones(4), Cuts(0.5, 2), 1, torch.Generator())
    tensor([[0., 4., 4.],
            [0., 4., 4.],
            [0., 3., 4.]], dtype=torch.float64)
    """
    size, bins_S = w_N.numel(), cuts.bins(w_N.numel())
    weight_F = _both_signs(size)
    rows = []
    for order_CN in _orders(size, size, permutations, generator):
        spectrum_CF = torch.fft.rfft(w_N[order_CN], norm="ortho")
        power_CF = torch.view_as_real(spectrum_CF).square().sum(-1) * weight_F
        rows.append(_below(power_CF)[:, bins_S])
    white_S = _below(weight_F)[bins_S] / size * rows[0][0, -1]
    return torch.cat([*rows, white_S[None]])


def product_power(
    a_RN: Tensor, b_MR: Tensor, cuts: Cuts, permutations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Power of B A where both frequencies are below a cut (rows as in `Cuts.describe`), and the map of it.

    The map has the shape 2 × S × S: power below a cut along the outputs and below another along the inputs, of the
    truth and of white noise.
    """
    (rank, inputs), outputs = a_RN.shape, b_MR.shape[0]
    b_RM, entries = b_MR.mT, rank * max(inputs, outputs)
    rows, map_SS = [], None
    for a_order_CN, b_order_CM in zip(
        _orders(inputs, entries, permutations, generator),
        _orders(outputs, entries, permutations, generator),
        strict=True,
    ):
        a_CSRR, b_CSRR = _grams(a_RN[:, a_order_CN], cuts), _grams(b_RM[:, b_order_CM], cuts)
        rows.append((a_CSRR * b_CSRR).sum((-1, -2)))
        if map_SS is None:
            map_SS = torch.einsum("prs,qrs->pq", b_CSRR[0], a_CSRR[0])
    assert map_SS is not None
    a_white_S, b_white_S = (_below(_both_signs(size))[cuts.bins(size)] / size for size in (inputs, outputs))
    white_SS = torch.outer(b_white_S, a_white_S) * rows[0][0, -1]
    return torch.cat([*rows, white_SS.diagonal()[None]]), torch.stack([map_SS, white_SS])


def _grams(w_RCN: Tensor, cuts: Cuts) -> Tensor:
    """Σ c_k Re(ŵ_k ŵ_k^H) over the bins below each cut, for each C; float64, shape C × S × R × R."""
    size = w_RCN.shape[-1]
    spectrum_CRF = torch.fft.rfft(w_RCN.transpose(0, 1), norm="ortho") * _both_signs(size).sqrt()
    real_CRFZ = torch.view_as_real(spectrum_CRF)
    bins = cuts.bins(size).tolist()
    bands = [real_CRFZ[:, :, low:high].flatten(2) for low, high in pairwise(bins)]
    gram_CSRR = torch.stack([(w_CRK @ w_CRK.mT).double() for w_CRK in bands], 1).cumsum(1)
    return pad(gram_CSRR, (0, 0, 0, 0, 1, 0))


def _orders(size: int, entries: int, permutations: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Chunks (C × size) of the identity and then of random permutations; each permutes `entries` entries."""
    length = max(1, CHUNK // entries)
    for start in range(0, permutations + 1, length):
        yield torch.stack(
            [
                torch.randperm(size, generator=generator) if row else torch.arange(size)
                for row in range(start, min(start + length, permutations + 1))
            ]
        )


def _both_signs(size: int) -> Tensor:
    """c_k: how many bins of the full transform each bin of a real signal's stands for."""
    return edges(size, inner=2, edge=1).float()


def _below(power_F: Tensor) -> Tensor:
    """Sums of the first 0, 1, … all bins, in float64."""
    return pad(power_F.cumsum(-1, dtype=torch.float64), (1, 0))
