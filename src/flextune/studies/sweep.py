"""Search settings of a recipe: every trial an ordinary run, as many at a time as there are workers.

    <output>/sweep.journal           the study (Optuna's), which workers on any machine that sees the folder share
    <output>/trials/0007/            a run
    <output>/sweep.json              every trial: settings, value, state, cause of a failure

`run_sweep(load_recipe("sweep.yaml"), "runs/sweep", workers=2)`
"""

import datetime
import json
import socket
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from filelock import FileLock, Timeout
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from flextune import pipeline
from flextune.errors import FlextuneError, UsageError
from flextune.files import differences, read_json, read_jsonl, write_json
from flextune.inputs import find_inputs
from flextune.progress import say
from flextune.recipe import Recipe, change, dump_recipe, parse_recipe, setting_of
from flextune.report.sweep import RECORD
from flextune.rundir import Measurement, RunDirectory, version
from flextune.scoring.pass_at_k import count, estimates
from flextune.studies.process import StoppedError, alone
from flextune.studies.settings import Range, Sweep
from flextune.studies.workers import on_a_cluster, on_this_machine

JOURNAL = "sweep.journal"
P_PRUNED = 0.1
"""Of Wilcoxon's test by which a trial ends early."""
MAY_CHANGE = ("sweep.trials", "sweep.prune", "execution.workers", "generation.workers", "about")
"""Keys of the recipe that a sweep can go on with other values of."""


def run_sweep(
    recipe: Recipe,
    output: str | Path,
    *,
    workers: int = 1,
    storage: str | None = None,
    ray: str | None = None,
    minutes: float | None = None,
) -> Path:
    """Do the trials that are left, and write `sweep.json`.

    Each trial has a process of its own; each worker takes the next trial, on the GPU of its number. A worker that was
    killed leaves its trial to the next worker on the same folder, which goes on with it where it was. A trial that
    fails, or whose memory does not suffice, is recorded with its cause, and the search goes on. Several machines work
    on one sweep by running this with the same folder, or each with a folder of its own and one `storage`.

    Args:
        recipe: With a `sweep`.
        output: The folder.
        workers: Trials at the same time.
        storage: `grpc://host:port` of Optuna's proxy server, or an address of a database; by default the journal.
        ray: The address of a Ray cluster, whose machines see the folder: the workers are tasks there.
        minutes: Begin no trial that would not be done after so long, by the median of those before it; what earlier
            calls took counts.

    Returns:
        `output`.

    Raises:
        UsageError: The recipe has no `sweep`, or not the one of the folder; what it names is not there.
    """
    output = Path(output)
    if recipe.sweep is None:
        raise UsageError("the recipe has no `sweep`: see `flextune recipe` for its keys")
    find_inputs(change(recipe, {"sweep": None}, "sweep"))
    (output / "trials").mkdir(parents=True, exist_ok=True)
    search = _Search(recipe, output.resolve(), storage, None if minutes is None else 60 * minutes * workers)
    arguments = (dump_recipe(recipe), search.output, storage, search.budget)
    if ray is not None:
        on_a_cluster(_worker, arguments, workers, ray)
    elif workers > 1:
        on_this_machine(_worker, arguments, workers)
    else:
        search.work()
    search.record()
    return output


def _worker(settings: str, output: Path, storage: str | None, budget: float | None, number: int) -> None:
    _Search(parse_recipe(yaml.safe_load(settings), "sweep"), output, storage, budget).work()


@dataclass
class _Search:
    """A study that is open in this process."""

    recipe: Recipe
    output: Path
    storage: str | None
    budget: float | None
    """Seconds of all workers together."""

    @property
    def sweep(self) -> Sweep:
        assert self.recipe.sweep is not None
        return self.recipe.sweep

    def __post_init__(self) -> None:
        """Open the study, made if it is not there; what is to be tried for certain is put in line once."""
        sweep = self.sweep
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self.taking():
            study = optuna.create_study(
                study_name="sweep",
                storage=_storage(self.storage, self.output),
                pruner=_pruner(sweep),
                direction="minimize" if sweep.objective == "validation_loss" else "maximize",
                load_if_exists=True,
            )
            settings = _plain(self.recipe)
            there = study.user_attrs.get("recipe")
            if there is not None:
                changed = differences(there, settings)
                reasons = [sentence for key, sentence in changed.items() if not key.startswith(MAY_CHANGE)]
                if reasons:
                    raise UsageError(f"{self.output} holds another sweep: {'; '.join(reasons)}; name another --output")
            if not study.user_attrs.get("in line"):
                for values in sweep.grid() if sweep.sampler == "grid" else [_own(self.recipe, sweep)]:
                    study.enqueue_trial({key: _stored(sweep, key, v) for key, v in values.items()}, skip_if_exists=True)
                study.set_user_attr("in line", True)
            study.set_user_attr("recipe", settings)
        self.study = study

    def taking(self) -> FileLock:
        """Held for a moment while a trial is taken or recorded."""
        return FileLock(self.output / ".taking.lock")

    def work(self) -> None:
        """Take trials until none, or no time, is left."""
        while taken := self.take():
            trial, lock = taken
            try:
                self.do(trial)
            finally:
                lock.release()
            self.record()

    def take(self) -> tuple[optuna.Trial, FileLock] | None:
        """A trial that a killed worker has left, or the next; held by a lock that the system lets go with its process.

        Where machines have folders of their own and a storage in common, the trials without a lock here are those of
        other machines.
        """
        with self.taking():
            for left in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                lock = self.lock(left.number)
                if self.storage is not None and not Path(lock.lock_file).exists():
                    continue
                try:
                    lock.acquire()
                except Timeout:
                    continue
                self.study.sampler = self.sampler(left.number)
                return optuna.Trial(self.study, left._trial_id), lock
            trials = self.study.get_trials(deepcopy=False)
            waiting = sum(trial.state == TrialState.WAITING for trial in trials)
            if not waiting and (self.sweep.trials is None or len(trials) >= self.sweep.trials):
                return None
            if self.budget is not None and _would_take_too_long(trials, self.budget):
                return None
            self.study.sampler = self.sampler(len(trials))
            trial = self.study.ask()
            lock = self.lock(trial.number)
            lock.acquire()
            self.study.sampler = self.sampler(trial.number)
            return trial, lock

    def sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """With a seed for each trial: no two workers draw alike, and a killed search goes on as it would have."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=self.recipe.seed + number, group=bool(self.sweep.only))

    def lock(self, number: int) -> FileLock:
        """Of a trial."""
        return FileLock(self.output / "trials" / f".{number:04d}.lock", timeout=0)

    def do(self, trial: optuna.Trial) -> None:
        """Run a trial and tell the study what came of it."""
        settings = _suggested(trial, self.sweep)
        say(f"Trial {trial.number}: {', '.join(f'{key} = {value}' for key, value in settings.items())}")
        trial.set_user_attr("settings", settings)
        trial.set_user_attr("machine", socket.gethostname())
        folder = self.output / _folder(trial.number)
        started, value, state = time.monotonic(), None, TrialState.COMPLETE
        try:
            made = change(self.recipe, {**settings, "sweep": None}, f"trial {trial.number}")
            alone(pipeline.run, made, folder, stop=_watch(trial, self.sweep, folder, made))
            value = objective(folder, made, self.sweep)
            outcome = f"{self.sweep.objective} = {value:.4f}"
        except StoppedError:
            state, outcome = TrialState.PRUNED, "ended early, worse than others so far"
        except Exception as error:  # whatever it is, the search goes on
            cause = str(error) if isinstance(error, FlextuneError) else f"{type(error).__name__}: {error}"
            trial.set_user_attr("cause", cause)
            state, outcome = TrialState.FAIL, f"failed: {cause}"
        trial.set_user_attr("seconds", round(time.monotonic() - started, 1))
        self.study.tell(trial, value, state)
        say(f"Trial {trial.number}: {outcome}")

    def record(self) -> None:
        """Write `sweep.json`: every trial, and which is best."""
        with self.taking():
            trials = [
                _row(trial) for trial in self.study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING
            ]
            whole = [row for row in trials if row["state"] == "complete"]
            sign = 1 if self.sweep.objective == "validation_loss" else -1
            best = min(whole, key=lambda row: sign * row["value"], default=None)
            content = {
                "flextune": version(),
                "objective": self.sweep.objective,
                "best": best and best["number"],
                "trials": trials,
                "recipe": _plain(self.recipe),
            }
            write_json(self.output / RECORD, content)


def _plain(recipe: Recipe) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(dump_recipe(recipe))
    return content


def _storage(storage: str | None, output: Path) -> Any:
    if storage is None:
        return optuna.storages.JournalStorage(JournalFileBackend(str(output / JOURNAL)))
    if storage.startswith("grpc://"):
        host, _, port = storage.removeprefix("grpc://").partition(":")
        if not port.isdecimal():
            raise UsageError(f"storage = {storage!r}: expected grpc://host:port")
        return optuna.storages.GrpcStorageProxy(host=host, port=int(port))
    return storage


def _pruner(sweep: Sweep) -> Any:
    if not sweep.prune or sweep.sampler == "grid":
        return optuna.pruners.NopPruner()
    if sweep.objective == "validation_loss":
        return optuna.pruners.MedianPruner(n_startup_trials=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.pruners.WilcoxonPruner(p_threshold=P_PRUNED)


def _own(recipe: Recipe, sweep: Sweep) -> dict[str, Any]:
    """The recipe's own values of what is searched: the first trial, so that the search can only gain."""
    found: dict[str, Any] = {}
    for key, values in sweep.space.items():
        own = setting_of(recipe, key)
        possible = values.low <= own <= values.high if isinstance(values, Range) else own in values
        if possible and sweep.applies(key, found):
            found[key] = own
    return found


def _stored(sweep: Sweep, key: str, value: Any) -> Any:
    """Optuna's categories are texts here: a list of modules is none of the types that it knows."""
    return value if isinstance(sweep.space[key], Range) else json.dumps(value)


def _would_take_too_long(trials: Sequence[optuna.trial.FrozenTrial], budget: float) -> bool:
    """Whether another trial would be over after so many seconds of all workers together."""
    now = datetime.datetime.now()  # as Optuna's
    seconds = [
        trial.user_attrs.get("seconds") or (now - trial.datetime_start).total_seconds()
        for trial in trials
        if trial.datetime_start is not None
    ]
    return bool(seconds) and sum(seconds) + statistics.median(seconds) > budget


def _folder(number: int) -> str:
    """The run of a trial, from the folder of the sweep."""
    return f"trials/{number:04d}"


def _suggested(trial: optuna.Trial, sweep: Sweep) -> dict[str, Any]:
    """The values of a trial; the same ones where it is gone on with."""
    found: dict[str, Any] = {}
    for key, values in sweep.space.items():
        if not sweep.applies(key, found):
            continue
        if isinstance(values, list):
            found[key] = json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in values]))
        elif values.whole:
            found[key] = trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
        else:
            found[key] = trial.suggest_float(key, values.low, values.high, log=values.log)
    return found


def _watch(trial: optuna.Trial, sweep: Sweep, folder: Path, recipe: Recipe) -> Callable[[], bool] | None:
    """Reports what a trial has found so far, and says whether it should end; None where no trial ends early."""
    if not sweep.prune or sweep.sampler == "grid":
        return None
    found = _losses if sweep.objective == "validation_loss" else _solved
    told: set[int] = set()

    def stop() -> bool:
        new = {step: value for step, value in found(folder, recipe).items() if step not in told}
        for step, value in new.items():
            trial.report(value, step)
        told.update(new)
        return bool(new) and trial.should_prune()

    return stop


def _losses(folder: Path, recipe: Recipe) -> dict[int, float]:
    """The validation losses so far, by step."""
    metrics = RunDirectory(folder).metrics
    rows = read_jsonl(metrics) if metrics.exists() else ()
    return {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}


def _solved(folder: Path, recipe: Recipe) -> dict[int, float]:
    """pass@1 of each problem of the benchmarks measured so far, by its position in all of them."""
    found: dict[int, float] = {}
    position = 0
    for benchmark in recipe.evaluation.benchmarks:
        snapshot = RunDirectory(folder).problems(benchmark)
        if not snapshot.exists():
            break
        problems = [row["task_id"] for row in read_jsonl(snapshot)]
        verdicts = measured_by(folder, recipe, benchmark).verdicts
        if verdicts.exists():
            values = estimates(count(list(read_jsonl(verdicts))), 1)
            found |= {position + i: values[task_id] for i, task_id in enumerate(problems)}
        position += len(problems)
    return found


def measured_by(folder: Path, recipe: Recipe, benchmark: str) -> Measurement:
    """What a sweep goes by: the last variant, and the first decoding."""
    return RunDirectory(folder).measurement(benchmark, recipe.variants[-1], next(iter(recipe.evaluation.decodings)))


def objective(folder: Path, recipe: Recipe, sweep: Sweep) -> float:
    """What a run is worth: the least validation loss after a step, or the mean of pass@1 over the benchmarks."""
    if sweep.objective == "validation_loss":
        return min(loss for step, loss in _losses(folder, recipe).items() if step)
    scores = [read_json(measured_by(folder, recipe, name).scores) for name in recipe.evaluation.benchmarks]
    return float(sum(score["pass@1"]["value"] for score in scores) / len(scores))


def _row(trial: optuna.trial.FrozenTrial) -> Mapping[str, Any]:
    attributes = trial.user_attrs
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "settings": attributes.get("settings", {}),
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "so_far": {str(step): value for step, value in trial.intermediate_values.items()},
        "cause": attributes.get("cause"),
        "seconds": attributes.get("seconds"),
        "machine": attributes.get("machine"),
        "run": _folder(trial.number),
    }
