r"""The vLLM backend: continuous batching and paged attention on a GPU, or vLLM's build for CPUs.

backend = VLLMBackend(find_model("smollm2-135m"))
backend.use(Path("runs/lora/adapter"))
texts = backend.generate([Request("def add(a, b):\n", stop=("\ndef",))], Decoding(), limit=64)

Prompts reach vLLM as token ids and its tokens are decoded here, so that both are done as in the transformers backend.
In float32 greedy texts are those of `model.generate` (which the tests check). A draw depends on its request's seed and
not on what else is asked, as far as the logits do not: in bfloat16 their last bits change with the batch.
"""

import contextlib
import gc
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from flextune.adapters import find_adapter, with_adapter
from flextune.checkpoints import check_types, check_weights
from flextune.errors import FlextuneError, UsageError, reason
from flextune.files import read_json
from flextune.generation.backend import Request, Text, check_windows, end_tokens, prompt_tokens, written_text
from flextune.generation.settings import BEAMS, Decoding
from flextune.models import GENERATION, ModelSource, context, load_config, load_model, load_tokenizer, save_model
from flextune.progress import waiting
from flextune.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that an engine can be made for."""
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
ON_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: quicker to start, and freed for sure
}
"""Settings of vLLM where the environment has none."""


class VLLMBackend:
    """A model in vLLM's engine, with adapters beside its weights, one added into them, or none.

    The engine starts with the first text, and takes adapters if `use` has named one by then; the base and all adapters
    share it. It is made anew when an adapter comes for the first time after that, when one has a higher rank than those
    before, and for each set of weights that adapters are added into: these are written to a temporary folder as whole
    models first.

    Args:
        source: The base model; its adapters are added into its weights.
        dtype: As for `load_model`.
        rows: Texts written at once.

    Raises `FlextuneError` if vLLM is missing or the source is to be quantized.
    """

    def __init__(self, source: ModelSource, dtype: str = "auto", rows: int = 64):
        from transformers import GenerationConfig

        if source.quantization is not None:
            raise FlextuneError(
                f"quantization = {source.quantization!r} needs backend = 'transformers': vLLM is given whole weights"
            )
        _import_vllm()
        self.source = source
        self.rows = rows
        config = load_config(source)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(source)
        check_types(source.path)
        check_weights(source.path)
        text = config.get_text_config()
        ends = GenerationConfig.from_pretrained(source.path) if (source.path / GENERATION).exists() else text
        self.tokens = Tokens(self.tokenizer, config.get_text_config().vocab_size, end_tokens(ends, text))
        # vLLM's own `auto` would halve float32
        self.dtype = str(config.dtype or "auto").removeprefix("torch.") if dtype == "auto" else dtype
        self.window = context(config)
        # with a longer one, vLLM would turn the positions of every text as for long ones
        own = getattr(config.get_text_config(), "max_position_embeddings", None)
        self._longest = -1 if self.window in (None, own) else self.window
        self._added = source.adapters
        """The adapters to add into the weights."""
        self._beside: Path | None = None
        self._rank = 0
        self._numbers: dict[Path, int] = {}
        """vLLM's number of each adapter that the engine has been shown."""
        self._engine: Any = None
        self._engine_is: tuple[tuple[Path, ...], int] | None = None

    def use(self, adapter: Path | None, merged: bool = False) -> None:
        """Write with this PEFT adapter from now on, beside the base's weights or added into them, or with the base."""
        self._added, self._beside = self.source.adapters, None
        if adapter is None:
            return
        folder = find_adapter(adapter).resolve()
        if merged:
            self._added = (*self.source.adapters, folder)
        else:
            self._rank = max(self._rank, _rank(folder))
            self._beside = folder

    def count(self, request: Request) -> int:
        """How many tokens the request's prompt has, as the model reads it."""
        return len(prompt_tokens(self.tokens, request))

    def generate(self, requests: Sequence[Request], decoding: Decoding, limit: int) -> list[Text]:
        """Write one text for each request, of `limit` new tokens at most.

        Raises `UsageError` for beams, `FlextuneError` if a prompt and `limit` together exceed the model's context, or
        if vLLM cannot run the model or the adapter.
        """
        if decoding.kind in BEAMS:
            raise UsageError(
                f"kind: {decoding.kind} needs backend: transformers: vLLM's beam search does not stop at stop strings "
                "and scores by the whole length"
            )
        if not requests:
            return []
        from vllm import SamplingParams, TokensPrompt
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import RequestOutputKind

        prompts = [prompt_tokens(self.tokens, request) for request in requests]
        check_windows(requests, prompts, limit, self.window)
        engine, adapter = self._ready()
        # where the memory does not hold the model's whole context, the engine's is shorter
        check_windows(requests, prompts, limit, engine.model_config.max_model_len)
        draws: dict[str, Any] = {"temperature": 0.0}
        if decoding.kind == "sampling":
            draws = {
                "temperature": decoding.temperature or 1.0,
                "top_p": decoding.top_p or 1.0,
                "top_k": decoding.top_k or 0,
            }
        try:
            settings = [
                SamplingParams(
                    **draws,
                    seed=request.seed % 2**63,
                    stop=list(request.stop),
                    stop_token_ids=sorted(self.tokens.ends),
                    skip_special_tokens=not self.tokens.shown(request.stop),
                    max_tokens=limit,
                    logprobs=0,  # of the token itself, to see that it is a number
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                for request in requests
            ]
            outputs = engine.generate(
                [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
                settings,
                use_tqdm=False,
                lora_request=adapter,
            )
        except (ValueError, VLLMValidationError) as error:
            raise FlextuneError(f"vLLM refuses the request: {_words(error)}") from None
        return [
            self._text(request, prompt, output.outputs[0])
            for request, prompt, output in zip(requests, prompts, outputs, strict=True)
        ]

    def close(self) -> None:
        """Free the engine; the next text starts a new one."""
        if self._engine is None:
            return
        core = self._engine.llm_engine.engine_core
        alone = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "1") == "0"
        self._engine, self._engine_is = None, None
        self._numbers = {}
        core.shutdown()
        del core
        gc.collect()
        if alone:
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()

    def _ready(self) -> tuple[Any, Any]:
        """The engine that has the weights, and vLLM's request for the adapter beside them."""
        if self._engine_is != (self._added, self._rank):
            self.close()
            with contextlib.ExitStack() as stack:
                weights = stack.enter_context(self._merged()) if self._added else self.source.path
                stack.enter_context(waiting(f"Starting vLLM on {self.source.path}"))
                self._engine = self._start(weights)
            self._engine_is = (self._added, self._rank)
        return self._engine, self._shown(self._beside) if self._beside else None

    def _start(self, weights: Path) -> Any:
        import torch
        from vllm import LLM

        lora = {"enable_lora": True, "max_lora_rank": self._rank} if self._rank else {}
        try:
            return LLM(
                str(weights),
                dtype=self.dtype,
                max_num_seqs=self.rows,
                max_model_len=self._longest,  # -1: the model's own, or what fits into the memory
                enforce_eager=not torch.cuda.is_available(),
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **lora,
            )
        except Exception as error:  # ValueErrors of its checks, RuntimeErrors of torch and of its processes
            raise FlextuneError(
                f"vLLM cannot run the model in {self.source.path}: {_words(error)}; backend = 'transformers' may"
            ) from None

    def _shown(self, adapter: Path) -> Any:
        """The adapter, loaded by the engine, so that one it cannot do is refused before there are requests."""
        from vllm.lora.request import LoRARequest

        number = self._numbers.get(adapter, len(self._numbers) + 1)
        request = LoRARequest(lora_name=str(adapter), lora_int_id=number, lora_path=str(adapter))
        if adapter not in self._numbers:
            try:
                self._engine.llm_engine.add_lora(request)
            except Exception as error:  # ValueErrors, or what carries them out of its processes
                raise FlextuneError(
                    f"vLLM cannot write with the adapter {adapter} beside the weights "
                    f"({_words(error).rstrip('.')}): add it into them (merged), or use backend = 'transformers'"
                ) from None
            self._numbers[adapter] = number
        return request

    @contextlib.contextmanager
    def _merged(self) -> Iterator[Path]:
        """A folder with the base and all adapters to be added into it, as one model."""
        import torch

        with TemporaryDirectory(prefix="flextune-merged-") as folder:
            model, tokenizer = load_model(self.source, self.dtype)
            for adapter in self._added[len(self.source.adapters) :]:
                model = with_adapter(model, adapter, merged=True)
            with waiting("Writing the merged model"):
                save_model(model, tokenizer, Path(folder), self.source)
            del model
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            yield Path(folder)

    def _text(self, request: Request, prompt: list[int], output: Any) -> Text:
        written = list(output.token_ids)
        # the end of text is a token, which stays away; a stop string is what was written
        if output.finish_reason == "stop" and not isinstance(output.stop_reason, str):
            written = written[:-1]
        if not math.isfinite(output.cumulative_logprob or 0):
            raise FlextuneError(
                f"{request.name}: the model's logits are NaN or infinite in {self.dtype}; try dtype: float32, or "
                "backend = 'transformers', which says in which layer they begin"
            )
        return Text(written_text(self.tokens, request, prompt, written), output.finish_reason, len(written))


def _import_vllm() -> None:
    """Import vLLM, once its settings stand in the environment."""
    import torch

    defaults = dict(QUIET)
    if not torch.cuda.is_available():
        defaults |= {**ON_CPU, "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    try:
        import vllm  # noqa: F401
    except ImportError:
        raise FlextuneError(
            "backend = 'vllm' needs vLLM: run `pip install 'flextune[vllm]'`, or on a machine without a GPU see "
            "docs/generation.md"
        ) from None


def _rank(adapter: Path) -> int:
    """The least rank of an engine that takes the adapter."""
    config = read_json(adapter / "adapter_config.json")
    rank = max(config["r"], *(config.get("rank_pattern") or {}).values(), 1)
    allowed = [size for size in RANKS if size >= rank]
    if not allowed:
        raise FlextuneError(
            f"vLLM cannot write with the adapter {adapter} beside the weights (rank {rank}, {RANKS[-1]} at most): add "
            "it into them (merged), or use backend = 'transformers'"
        )
    return allowed[0]


def _words(error: BaseException) -> str:
    """What an error says; pydantic's begin with a count."""
    if callable(details := getattr(error, "errors", None)) and (found := details()):
        return str(found[0].get("msg", error)).removeprefix("Value error, ").splitlines()[0]
    return reason(error)
