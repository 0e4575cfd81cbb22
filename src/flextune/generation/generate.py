"""The stage `generate`: problems and a model become `completions.jsonl`."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from flextune.files import Journal, Row
from flextune.generation.backend import Request, Text
from flextune.generation.cache import TextCache
from flextune.generation.engine import Engine, Variant
from flextune.generation.prompts import Question, question
from flextune.generation.settings import DRAWS, Decoding
from flextune.progress import progress, say
from flextune.tasks import Problem

Key = tuple[str, int]
"""A problem's id and the number of a sample."""


def generate(
    engine: Engine,
    problems: Sequence[Problem],
    path: Path,
    *,
    decoding: Decoding,
    variant: Variant = (None, False),
    seed: int = 0,
    ask: Callable[[Problem], Question] | None = None,
    label: str = "completions",
) -> None:
    """Write one completion for each problem and sample to `path`; does nothing if it is there.

    What is in the cache is taken from there. The rest is sorted by the length of its prompts and cut into batches that
    depend on nothing else, so a run that was killed repeats the batches it had, and loses at most one.

    Args:
        engine: The model.
        problems: What to ask.
        path: `completions.jsonl`: `completion` is what is judged, `raw` all that the model wrote.
        decoding: How the next token is chosen.
        variant: The adapter to write with.
        seed: For draws; each sample of each problem gets a seed of its own from it.
        ask: How a problem is asked; by default as the engine's settings say.
        label: What the progress bar says.
    """
    journal = Journal(path)
    if journal.complete:
        return
    asked = {
        (problem.task_id, sample): (asking, _request(asking, sample, decoding, seed))
        for problem in problems
        for asking in (ask(problem) if ask else question(problem, engine.generation),)
        for sample in range(decoding.samples)
    }

    def row(key: Key, text: Text) -> Row:
        found = {"task_id": key[0], "sample": key[1], "completion": asked[key][0].completion(text.text)}
        return {**found, "raw": text.text, "finish_reason": text.finish_reason, "tokens": text.tokens}

    cache = _cache(engine, variant, decoding)
    if cache and not journal.rows:
        found = {key: cache.get(request) for key, (_, request) in asked.items()}
        journal.append({**row(key, text), "cached": True} for key, text in found.items() if text)
        if journal.rows:
            say(f"{label}: {len(journal.rows)} of {len(asked)} were written before")
    done = {(row["task_id"], row["sample"]): row for row in journal.rows}
    # what the cache gave is part of no batch, now and after a restart
    todo = {key: request for key, (_, request) in asked.items() if not done.get(key, {}).get("cached")}
    cut = _cut(engine, todo) if todo.keys() - done.keys() else []
    batches = [keys for keys in cut if any(key not in done for key in keys)]
    requests = [[todo[key] for key in keys] for keys in batches]
    with progress(label, len(asked), len(done)) as step:
        for number, texts in engine.write(requests, variant, decoding, engine.generation.max_new_tokens):
            rows = [row(key, text) for key, text in zip(batches[number], texts, strict=True)]
            journal.append(rows)
            done |= zip(batches[number], rows, strict=True)
            if cache:
                cache.put(zip(requests[number], texts, strict=True))
            step(len(rows))
    for written in done.values():
        written.pop("cached", None)
    journal.finish(done[key] for key in asked)


def _request(asking: Question, sample: int, decoding: Decoding, seed: int) -> Request:
    # without draws nothing depends on the seed
    number = sample_seed(seed, asking.problem.task_id, sample) if decoding.kind in DRAWS else 0
    return Request(asking.text, asking.stop, number, asking.chat, asking.problem.task_id)


def _cut(engine: Engine, requests: Mapping[Key, Request]) -> list[list[Key]]:
    """The batches: the longest prompts first, those of a problem's samples side by side."""
    lengths = dict(zip(requests, engine.count(list(requests.values())), strict=True))
    keys = sorted(requests, key=lambda key: (-lengths[key], key))
    size = engine.generation.batch_size
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _cache(engine: Engine, variant: Variant, decoding: Decoding) -> TextCache | None:
    """The texts that this model has written with these settings; none for a server, whose model may change."""
    if engine.generation.backend == "openai":
        return None
    how = asdict(decoding)
    del how["samples"]
    return TextCache({**engine.about(variant), "decoding": how})


def sample_seed(seed: int, task_id: str, sample: int) -> int:
    """The seed of one sample of one problem, independent of everything else in the run."""
    digest = hashlib.sha256(f"{seed}/{task_id}/{sample}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
