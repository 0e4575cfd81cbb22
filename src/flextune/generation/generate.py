"""The stage `generate`: problems and a model become `completions.jsonl`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from flextune.files import Journal, Row
from flextune.generation.settings import Decoding, Generation
from flextune.generation.transformers_backend import Text, sample_seed
from flextune.progress import progress
from flextune.tasks import Problem, truncate


class Backend(Protocol):
    """What a backend has to be able to do."""

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens a prompt has."""
        ...

    def generate(
        self,
        prompts: Sequence[str],
        stops: Sequence[Sequence[str]],
        seeds: Sequence[int],
        decoding: Decoding,
        limit: int,
    ) -> list[Text]:
        """Complete a batch of prompts, each with stop strings and a seed of its own, to `limit` new tokens at most."""
        ...


def generate(
    backend: Callable[[], Backend],
    problems: Sequence[Problem],
    path: Path,
    *,
    decoding: Decoding,
    generation: Generation,
    seed: int = 0,
    label: str = "completions",
) -> None:
    """Write one completion for each problem and sample to `path`; does nothing if it is there.

    Problems are sorted by the length of their prompts and cut into batches that depend on nothing else, so a run that
    was killed repeats the batches it had, and loses at most one.

    Args:
        backend: Called once, and only if there is something to do: loads the model.
        problems: What to ask.
        path: `completions.jsonl`.
        decoding: How the next token is chosen.
        generation: Batch size and length limit.
        seed: For sampling.
        label: What the progress bar says.
    """
    journal = Journal(path)
    if journal.complete:
        return
    model = backend()
    asked = [(problem, sample) for problem in problems for sample in range(decoding.samples)]
    lengths = {problem.task_id: model.prompt_tokens(problem.prompt) for problem in problems}
    asked.sort(key=lambda pair: (-lengths[pair[0].task_id], pair[0].task_id, pair[1]))
    size = generation.batch_size
    batches = [asked[start : start + size] for start in range(0, len(asked), size)]
    done = {(row["task_id"], row["sample"]): row for row in journal.rows}
    with progress(label, len(asked), len(done)) as step:
        for batch in batches:
            if all((problem.task_id, sample) in done for problem, sample in batch):
                continue
            texts = model.generate(
                [problem.prompt for problem, _ in batch],
                [problem.stop for problem, _ in batch],
                [sample_seed(seed, problem.task_id, sample) for problem, sample in batch],
                decoding,
                generation.max_new_tokens,
            )
            rows: list[Row] = [
                {
                    "task_id": problem.task_id,
                    "sample": sample,
                    "completion": truncate(text.text, problem.stop),
                    "finish_reason": text.finish_reason,
                    "tokens": text.tokens,
                }
                for (problem, sample), text in zip(batch, texts, strict=True)
            ]
            journal.append(rows)
            done |= {(row["task_id"], row["sample"]): row for row in rows}
            step(len(batch))
    journal.finish(done[problem.task_id, sample] for problem in problems for sample in range(decoding.samples))
