"""Search settings of a recipe: every trial an ordinary run, as many at a time as there are workers.

    <output>/sweep.journal           the study (Optuna's), which workers on any machine that sees the folder share
    <output>/trials/0007/            a run
    <output>/sweep.json              every trial: settings, value, state, cause of a failure

`run_sweep(load_recipe("sweep.yaml"), "runs/sweep", workers=2)`
"""

import datetime
import itertools
import json
import math
import socket
import statistics
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import yaml
from filelock import FileLock, Timeout
from optuna.trial import TrialState

from flextune import pipeline
from flextune.errors import DivergedError, FlextuneError, UsageError, cause, is_the_machines
from flextune.files import differences, write_json
from flextune.progress import say
from flextune.recipe import Recipe, change, dump_recipe, parse_recipe
from flextune.report.sweep import RECORD
from flextune.rundir import RunDirectory, version
from flextune.studies.objective import all_known, chosen_variant, objective, so_far
from flextune.studies.process import StoppedError, alone
from flextune.studies.settings import Sweep
from flextune.studies.space import own_values, stored, suggested
from flextune.studies.storage import JOURNAL, storage_of
from flextune.studies.workers import on_a_cluster, on_this_machine

P_PRUNED = 0.1
"""Of Wilcoxon's test by which a trial ends early."""
ABANDONED = 120
"""Seconds after which a trial that was asked for and never begun is taken up."""
MAY_CHANGE = ("sweep.trials", "sweep.prune", "execution.workers", "generation.workers", "about", "data")
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
    fails, or whose memory does not suffice, is recorded with its cause, and the search goes on; where the disk is full
    it stops, and the trial is left to the next call. Several machines work on one sweep by running this with the same
    folder, or each with a folder of its own (of one name) and one `storage`.

    Args:
        recipe: With a `sweep`.
        output: The folder; with a `storage` in common its name is that of the study there.
        workers: Trials at the same time.
        storage: `grpc://host:port` of Optuna's proxy server, or an address of a database; by default the journal.
        ray: The address of a Ray cluster, whose machines see the folder: the workers are tasks there.
        minutes: Begin no trial that would not be done after so long, by the median of those that were whole; the trials
            of earlier calls count, of one that was killed what it took afterwards.

    Returns:
        `output`.

    Raises:
        UsageError: The recipe has no `sweep`, or not the one of the folder; what it names is not there.
    """
    output = Path(output)
    if recipe.sweep is None:
        raise UsageError("the recipe has no `sweep`: see `flextune recipe` for its keys")
    if RunDirectory(output).provenance.exists():
        raise UsageError(f"{output} holds a run; name another --output")
    pipeline.check(_trial(recipe, {}, "sweep"))
    with at_work(output):
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


@contextmanager
def at_work(output: Path) -> Iterator[None]:
    """A lock that says, from before the first trial until after the last, that somebody is at work on a folder."""
    trials = output / "trials"
    trials.mkdir(parents=True, exist_ok=True)
    file = trials / f".worker-{uuid.uuid4().hex}.lock"
    try:
        with FileLock(file):
            yield
    finally:
        file.unlink(missing_ok=True)


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
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self.taking():
            self.study = self.opened()
            settings = _plain(self.recipe)
            there = self.study.user_attrs.get("recipe")
            if there is not None:
                changed = differences(_plain(parse_recipe(there, str(self.output))), settings)
                reasons = [sentence for key, sentence in changed.items() if not key.startswith(MAY_CHANGE)]
                if reasons:
                    raise UsageError(f"{self.output} holds another sweep: {'; '.join(reasons)}; name another --output")
            self.study.set_user_attr("recipe", settings)

    def opened(self) -> optuna.Study:
        """The study, made if it is not there; the first of a search's trials is with the recipe's own values.

        A grid needs no line: the number of a trial says which of its combinations it is.
        """
        direction: Literal["minimize", "maximize"] = "maximize"
        if self.sweep.objective == "validation_loss":
            direction = "minimize"
        name = self.output.name
        try:
            storage = storage_of(self.storage, self.output)
            if self.storage is None:  # a journal has one study, also where its folder was renamed
                name = next(iter(optuna.get_all_study_names(storage)), name)
            options: dict[str, Any] = {"study_name": name, "storage": storage, "pruner": _pruner(self.sweep)}
            study = optuna.create_study(**options, direction=direction, load_if_exists=True)
            if self.sweep.sampler == "tpe" and not study.get_trials(deepcopy=False):
                own = own_values(self.recipe, self.sweep)
                study.enqueue_trial({key: stored(self.sweep, key, value) for key, value in own.items()})
            return study
        except json.JSONDecodeError as error:
            raise FlextuneError(
                f"{self.output / JOURNAL} is damaged ({error}); take the broken line out, or name another --output"
            ) from None
        except Exception as error:  # of Optuna, gRPC, SQLAlchemy or a database alike
            if self.storage is None or isinstance(error, FlextuneError):
                raise
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UsageError(f"storage = {self.storage!r} cannot be used: {type(error).__name__}: {first}") from None

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

    @property
    def trials(self) -> int:
        """How many there are to be."""
        return self.sweep.trials or len(self.sweep.grid())

    def take(self) -> tuple[optuna.Trial, FileLock] | None:
        """A trial that a killed worker has left, or the next; held by a lock that ends with its process."""
        with self.taking():
            for left in self.under_way():
                lock = self.lock(left.number)
                if self.elsewhere(left, lock):
                    continue
                try:
                    lock.acquire()
                except Timeout:
                    continue
                if left.number not in {trial.number for trial in self.under_way()}:  # it has ended just now
                    lock.release()
                    continue
                self.study.sampler = self.sampler(left.number)
                return optuna.Trial(self.study, left._trial_id), lock
            trials = self.study.get_trials(deepcopy=False)
            begun = [trial for trial in trials if trial.state != TrialState.WAITING]
            if len(begun) >= self.trials or (self.budget is not None and _would_take_too_long(begun, self.budget)):
                return None
            self.study.sampler = self.sampler(len(trials))
            trial = self.study.ask()
            if trial.number >= self.trials:  # another machine was faster
                self.study.tell(trial, state=TrialState.FAIL)
                return None
            lock = self.lock(trial.number)
            lock.acquire()
            self.study.sampler = self.sampler(trial.number)
            return trial, lock

    def under_way(self) -> list[optuna.trial.FrozenTrial]:
        """The trials that somebody does, or has left."""
        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def elsewhere(self, trial: optuna.trial.FrozenTrial, lock: FileLock) -> bool:
        """Whether a trial under way is another machine's, with a folder of its own and the same storage.

        One that nobody has begun a while after it was asked for is nobody's.
        """
        if self.storage is None or Path(lock.lock_file).exists():
            return False
        asked = trial.datetime_start
        return "machine" in trial.user_attrs or asked is None or (_now() - asked).total_seconds() < ABANDONED

    def sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """With a seed for each trial: no two workers draw alike, and a killed search goes on as it would have."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=self.recipe.seed + number, group=bool(self.sweep.only))

    def lock(self, number: int) -> FileLock:
        """Of a trial; whoever asks `is_held` has it for a moment."""
        return FileLock(self.output / "trials" / f".{number:04d}.lock", timeout=0.1)

    def do(self, trial: optuna.Trial) -> None:
        """Run a trial and tell the study what came of it."""
        trial.set_user_attr("machine", socket.gethostname())
        folder = self.output / _folder(trial.number)
        started, state = time.monotonic(), TrialState.COMPLETE
        value: float | None = None
        try:
            settings = self.settings(trial)
            say(f"Trial {trial.number}: {', '.join(f'{key} = {value}' for key, value in settings.items())}")
            trial.set_user_attr("settings", settings)
            self.record()  # that it is under way
            made = _trial(self.recipe, settings, f"trial {trial.number}")
            alone(pipeline.run, made, folder, stop=_watch(trial, self.sweep, folder, made))
            value = objective(folder, made, self.sweep)
            if not math.isfinite(value):
                raise DivergedError(f"{self.sweep.objective} = {value}: it stopped being a number")
            outcome = f"{self.sweep.objective} = {value:.4f}"
        except StoppedError:
            value, state, outcome = None, TrialState.PRUNED, "ended early, worse than others so far"
        except Exception as error:  # whatever else it is, the search goes on
            if is_the_machines(error):
                raise  # the trial is left to who comes next
            trial.set_user_attr("cause", cause(error))
            value, state, outcome = None, TrialState.FAIL, f"failed: {cause(error)}"
        trial.set_user_attr("seconds", round(time.monotonic() - started, 1))
        self.study.tell(trial, value, state)
        say(f"Trial {trial.number}: {outcome}")

    def settings(self, trial: optuna.Trial) -> dict[str, Any]:
        """What a trial changes of the recipe."""
        return suggested(trial, self.sweep) if self.sweep.sampler == "tpe" else self.sweep.grid()[trial.number]

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


def _trial(recipe: Recipe, settings: Mapping[str, Any], name: str) -> Recipe:
    """The recipe of a trial, which measures no more than the search goes by."""
    made = change(recipe, {**settings, "sweep": None}, name)
    if recipe.sweep and recipe.sweep.objective == "validation_loss":
        return change(made, {"evaluation.variants": []}, name)
    first = dict(itertools.islice(_plain(made)["evaluation"]["decodings"].items(), 1))
    return change(made, {"evaluation.variants": [chosen_variant(made)], "evaluation.decodings": first}, name)


def _plain(recipe: Recipe) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(dump_recipe(recipe))
    return content


def _pruner(sweep: Sweep) -> Any:
    if not sweep.prune or sweep.sampler == "grid":
        return optuna.pruners.NopPruner()
    if sweep.objective == "validation_loss":
        return optuna.pruners.MedianPruner(n_startup_trials=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.pruners.WilcoxonPruner(p_threshold=P_PRUNED)


def _would_take_too_long(trials: Sequence[optuna.trial.FrozenTrial], budget: float) -> bool:
    """Whether another trial would be over after so many seconds of all workers together, by those that have ended."""
    ended = [trial for trial in trials if trial.state.is_finished() and "seconds" in trial.user_attrs]
    whole = [trial for trial in ended if trial.state == TrialState.COMPLETE] or ended  # one that failed says little
    typical = statistics.median(trial.user_attrs["seconds"] for trial in whole) if whole else 0
    under_way = sum(not trial.state.is_finished() for trial in trials)
    spent = sum(trial.user_attrs["seconds"] for trial in ended)
    return bool(budget <= 0 or spent + typical * (under_way + 1) > budget)


def _now() -> datetime.datetime:
    return datetime.datetime.now()  # as Optuna's


def _folder(number: int) -> str:
    """The run of a trial, from the folder of the sweep."""
    return f"trials/{number:04d}"


def _watch(trial: optuna.Trial, sweep: Sweep, folder: Path, recipe: Recipe) -> Callable[[], bool] | None:
    """Reports what a trial has found so far, and says whether it should end; None where no trial ends early."""
    if not sweep.prune or sweep.sampler == "grid":
        return None
    told = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def stop() -> bool:
        new = {step: value for step, value in so_far(folder, recipe, sweep).items() if step not in told}
        for step, value in new.items():
            trial.report(value, step)
        told.update(new)
        return bool(new) and not all_known(folder, recipe, sweep) and trial.should_prune()

    return stop


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
