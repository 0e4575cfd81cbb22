"""Engine: the model of a run with its backend, loaded when it is first needed, in this process or in several."""

import datetime
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flextune import processes
from flextune.checkpoints import compute_dtype
from flextune.errors import FlextuneError
from flextune.files import sha256
from flextune.generation.backend import Backend, Request, Text
from flextune.generation.settings import Decoding, Generation
from flextune.models import ModelSource
from flextune.rundir import versions

Variant = tuple[Path | None, bool]
"""A PEFT adapter, and whether it is added into the weights; `(None, False)` is the base."""


FORM = 2
"""The form of kept texts: raised when flextune would answer the same request otherwise, as with another end of text."""


@dataclass
class Engine:
    """Writes texts with a model and its adapters; the base is loaded once for all of them.

    With several processes, use it in a `with`, or call `release` at the end.

    Args:
        source: The model; with a server, `path` is what the server calls it.
        generation: Backend, batch size, workers.
        dtype: As for `load_model`.
    """

    source: ModelSource
    generation: Generation = field(default_factory=Generation)
    dtype: str = "auto"
    _backend: Backend | None = field(default=None, init=False)
    _pool: ProcessPoolExecutor | None = field(default=None, init=False)

    def about(self, variant: Variant) -> dict[str, Any]:
        """All that a text depends on, next to its prompt, its seed and the decoding."""
        adapter, merged = variant
        settings = asdict(self.generation)
        del settings["workers"]
        model = {key: value for key, value in self.source.provenance.items() if key != "folder"}
        return {
            "form": FORM,
            "model": model,
            "adapters below": [sha256(folder) for folder in self.source.adapters],
            "quantization": self.source.quantization,
            "adapter": sha256(adapter) if adapter else None,
            "merged": merged,
            "dtype": compute_dtype(self.source, self.dtype),
            "generation": settings,
            "files": self.source.settings(),
            "today": self._today(),
            "versions": versions(),
            "device": _device(),
        }

    def _today(self) -> str | None:
        """The date, where the chat template writes it into every prompt."""
        files = [self.source.path / "tokenizer_config.json", *self.source.path.glob("**/*.jinja")]
        dated = any(b"strftime_now" in file.read_bytes() for file in files if file.exists())
        return datetime.date.today().isoformat() if self.generation.chat and dated else None

    def count(self, requests: Sequence[Request]) -> list[int]:
        """How many tokens each request's prompt has."""
        if self._workers() > 1:
            with self._told_if_killed():
                return self._processes().submit(_count, requests).result()
        backend = self._loaded()
        return [backend.count(request) for request in requests]

    def write(
        self, batches: Sequence[Sequence[Request]], variant: Variant, decoding: Decoding, limit: int
    ) -> Iterator[tuple[int, list[Text]]]:
        """The texts of each batch, with its number; several processes give them in the order in which they are done."""
        if not batches:
            return
        if self._workers() == 1:
            backend = self._loaded()
            backend.use(*variant)
            for number, batch in enumerate(batches):
                yield number, backend.generate(batch, decoding, limit)
            return
        waiting: dict[Future[list[Text]], int] = {}
        try:
            with self._told_if_killed():
                for number, batch in enumerate(batches):
                    waiting[self._processes().submit(_write, batch, variant, decoding, limit)] = number
                for done in as_completed(waiting):
                    yield waiting[done], done.result()
        finally:
            for future in waiting:
                future.cancel()

    @contextmanager
    def _told_if_killed(self) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool:
            self.release()
            raise FlextuneError(
                "a process that writes completions was killed, perhaps for want of memory; lower generation.workers "
                "or generation.concurrency; the same command goes on"
            ) from None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()  # after an error too: at its exit Python waits for processes that nobody has told to end

    def release(self) -> None:
        """Let go of the model, so that another can have the memory; it is loaded again when it is needed."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _workers(self) -> int:
        if self.generation.backend != "transformers":
            return 1
        return self.generation.workers or _gpus() or 1

    def _loaded(self) -> Backend:
        if self._backend is None:
            self._backend = load(self.source, self.generation, self.dtype)
        return self._backend

    def _processes(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            numbers = context.Queue()
            for number in range(self._workers()):
                numbers.put(number)
            self._pool = ProcessPoolExecutor(
                self._workers(), context, _start, (numbers, self.source, self.generation, self.dtype)
            )
        return self._pool


def load(source: ModelSource, generation: Generation, dtype: str = "auto") -> Backend:
    """The backend that the settings name, with the base model loaded."""
    if generation.backend != "openai":
        dtype = compute_dtype(source, dtype)
    if generation.backend == "vllm":
        from flextune.generation.vllm_backend import VLLMBackend

        return VLLMBackend(source, dtype, generation.concurrency)
    if generation.backend == "openai":
        from flextune.generation.openai_backend import OpenAIBackend

        return OpenAIBackend(str(source.path), str(generation.server), generation.concurrency)
    from flextune.generation.transformers_backend import TransformersBackend

    return TransformersBackend(source, dtype, generation.concurrency)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


_here: Engine | None = None
"""A worker process's engine; it loads the model with the first task, so that what is wrong with it comes back."""


def _start(numbers: Any, source: ModelSource, generation: Generation, dtype: str) -> None:
    """Give a worker process the GPU of its number, or its share of the cores."""
    import torch

    global _here  # a pool's function finds it nowhere else
    processes.end_with_parent()  # the pool's own sign would never reach it
    number = numbers.get()
    processes.become_worker()
    os.environ["LOCAL_RANK"] = str(number)
    workers = generation.workers or 1
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    _here = Engine(source, replace(generation, workers=1), dtype)


def _count(requests: Sequence[Request]) -> list[int]:
    assert _here is not None
    return _here.count(requests)


def _write(requests: Sequence[Request], variant: Variant, decoding: Decoding, limit: int) -> list[Text]:
    assert _here is not None
    ((_, texts),) = _here.write([requests], variant, decoding, limit)
    return texts
