"""What the files of a checkpoint say, before any model is made of them: types, numbers, names."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flextune.errors import FlextuneError, reason
from flextune.files import read_json
from flextune.progress import say_once, waiting

if TYPE_CHECKING:
    from flextune.models import ModelSource

MASKS = re.compile(
    r"\.(attn|attention)(\.attention)?\.(masked_)?bias$|\.causal_mask$|\.(maybe_rotary|rotary_emb)\.inv_freq$|^v_head\."
)
"""Names in older checkpoints that are no weights of the model: causal masks, frequencies, TRL's value head."""
NUMBERS = ("F64", "F32", "F16", "BF16")
"""Types of weights that need no scales to be read."""


def check_types(folder: Path) -> None:
    """Refuse quantized weights of which config.json says nothing: they would be read as they stand."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if found := read_json(folder / "config.json", of_model=True).get("quantization_config"):
        method = found.get("quant_method", "bitsandbytes")
        if method not in AUTO_QUANTIZATION_CONFIG_MAPPING and "load_in" not in str(found):
            raise FlextuneError(
                f"{folder / 'config.json'}: transformers does not know the quant_method {method!r}, and would "
                "read the weights as they stand; use the checkpoint in 16 or 32 bits"
            )
        return
    for path in sorted(folder.glob("*.safetensors")):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                matrix = len(part.get_shape()) >= 2 and not MASKS.search(name)
                if matrix and (found := part.get_dtype()) not in NUMBERS:
                    raise FlextuneError(
                        f"{path} stores {name} in {found}, and config.json has no quantization_config that says how to "
                        "read it; use the checkpoint in 16 or 32 bits"
                    )


def check_weights(folder: Path) -> None:
    """Refuse safetensors files that contain NaN or infinity, for engines that do not look at what they load."""
    from flextune.finite import first_not_finite

    for path in sorted(folder.glob("*.safetensors")):
        with waiting(f"Checking {path}"), _opened(path) as file:
            name = first_not_finite((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
        if name:
            raise FlextuneError(f"{path} contains NaN or infinity, such as in {name}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; an error names a file that is cut short."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise FlextuneError(f"{path} cannot be read: {reason(error)}") from None


def compute_dtype(source: "ModelSource", dtype: str) -> str:
    """The type that a model computes in.

    `auto` is the checkpoint's own type, except on a processor without instructions for it: there it is float32. Such a
    processor emulates 16-bit floats, which takes many times as long.
    """
    import torch

    if dtype != "auto" or source.quantization:
        return dtype
    own = _own_dtype(source.path)
    if torch.cuda.is_available() or own == "float32" or has_instructions_for(own):
        return own
    say_once(f"Computing in float32: this processor has no instructions for the checkpoint's {own}")
    return "float32"


def _own_dtype(folder: Path) -> str:
    """The type of a checkpoint's weights, as transformers finds it: in config.json, or the first weight's."""
    config = read_json(folder / "config.json", of_model=True) if (folder / "config.json").exists() else {}
    for section in (config, config.get("text_config") or {}):
        if own := section.get("dtype") or section.get("torch_dtype"):
            return str(own)
    for path in sorted(folder.glob("*.safetensors")):
        with _opened(path) as file:
            tensors = (file.get_tensor(name).dtype for name in file.keys())  # noqa: SIM118
            if found := next((found for found in tensors if found.is_floating_point), None):
                return str(found).removeprefix("torch.")
    return "float32"


def has_instructions_for(dtype: str) -> bool:
    """Whether this machine's processor computes in `bfloat16` or `float16` itself."""
    import torch

    if not hasattr(torch.cpu, "get_capabilities"):  # before torch 2.13
        return True
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in INSTRUCTIONS.get(dtype, ()))


INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
"""What torch calls a processor's instructions for each type, on x86 and ARM; any one of them is enough."""
