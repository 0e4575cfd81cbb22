"""A search that is killed goes on, that is shared repeats nothing, and that fails says why."""

import datetime
import errno
import signal
import sys
import time
from pathlib import Path

import optuna
import pytest
from alive import alive
from made_rows import solve
from made_search import SWEEP, recipe, settings, start
from rich.console import Console

from flextune import pipeline
from flextune.errors import DivergedError, FlextuneError, NoRoomError, UsageError
from flextune.execution.sandbox.launcher import descendants
from flextune.files import read_json, write_jsonl
from flextune.recipe import change, parse_recipe
from flextune.report.find import is_under_way
from flextune.report.sweep import read_sweep, summary
from flextune.rundir import RunDirectory
from flextune.studies import sweep as module
from flextune.studies.objective import measured_by
from flextune.studies.process import StoppedError
from flextune.studies.settings import Sweep
from flextune.studies.space import own_values
from flextune.studies.storage import JOURNAL
from flextune.studies.sweep import run_sweep


@pytest.fixture
def made_up(monkeypatch):
    """Trials without a model: the loss is what a function of the recipe says, step by step."""

    def use(losses):
        done = []

        def run(made, folder):
            done.append(made)
            rows = [{"step": step, "validation_loss": loss} for step, loss in enumerate(losses(made))]
            write_jsonl(RunDirectory(folder).metrics, rows)

        def alone(function, *arguments, stop=None):
            function(*arguments)
            if stop and stop():
                raise StoppedError

        monkeypatch.setattr(module, "alone", alone)
        monkeypatch.setattr(pipeline, "check", lambda recipe: None)
        monkeypatch.setattr(pipeline, "run", run)
        return done

    return use


def test_a_grid_is_tried_once_and_the_best_is_named(tmp_path, made_up):
    done = made_up(lambda made: [9.0, made.adapter.rank + made.training.learning_rate])
    run_sweep(recipe(), tmp_path)
    found = read_sweep(tmp_path)
    assert settings(found["trials"]) == settings([{"settings": chosen} for chosen in Sweep(**SWEEP).grid()])
    best = found["trials"][found["best"]]
    assert (best["settings"], best["value"]) == ({"training.learning_rate": 0.001, "adapter.rank": 2}, 2.001)
    assert len(done) == 6
    run_sweep(recipe(), tmp_path)
    assert len(done) == 6


def test_by_the_loss_no_benchmark_is_measured(tmp_path, made_up):
    done = made_up(lambda made: [9.0, 1.0])
    evaluation = {"benchmarks": ["humaneval"], "variants": ["base", "unmerged"], "scale": 0.5}
    run_sweep(recipe(evaluation=evaluation), tmp_path)
    assert [(made.evaluation.benchmarks, made.variants) for made in done] == 6 * [(["humaneval"], [])]


def test_a_trial_under_way_is_recorded_with_its_settings(tmp_path, made_up):
    seen = []

    def losses(made):
        seen.append(read_sweep(tmp_path)["trials"][-1])
        return [float(made.adapter.rank)]

    made_up(losses)
    run_sweep(recipe(), tmp_path)
    ended = read_sweep(tmp_path)["trials"]
    assert [(trial["number"], trial["state"]) for trial in seen] == [(number, "running") for number in range(6)]
    assert (settings(seen), seen[0]["machine"]) == (settings(ended), ended[0]["machine"])
    assert seen[0]["settings"]


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(tmp_path, made_up):
    def losses(made):
        if made.adapter.rank == 3:
            raise DivergedError("the training loss is nan at step 3")
        if made.adapter.rank == 4:
            raise MemoryError("too much") if made.training.learning_rate == 1e-3 else OSError(errno.ENOMEM, "no memory")
        return [9.0, 1.0]

    made_up(losses)
    run_sweep(recipe(), tmp_path)
    trials = read_sweep(tmp_path)["trials"]
    causes = {(trial["settings"]["adapter.rank"], trial["state"], trial["cause"]) for trial in trials}
    assert causes == {
        (2, "complete", None),
        (3, "fail", "the training loss is nan at step 3"),
        (4, "fail", "MemoryError: too much"),
        (4, "fail", "OSError: [Errno 12] no memory"),
    }
    assert len(trials) == 6
    console = Console(width=120)
    with console.capture() as text:
        console.print(summary(read_sweep(tmp_path)))
    assert "6 trials: 2 complete, 0 ended early, 4 failed" in text.get()
    assert "failed: MemoryError: too much" in text.get()


TPE = {
    "space": {"training.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}, "adapter.rank": [1, 2, 64]},
    "sampler": "tpe",
    "trials": 30,
}


def test_a_search_begins_with_the_recipes_own_values_and_finds_better(tmp_path, made_up):
    made_up(lambda made: [9.0, abs(made.training.learning_rate / 1e-2 - 1) + (made.adapter.rank != 64)])
    run_sweep(recipe(sweep=TPE), tmp_path)
    found = read_sweep(tmp_path)
    assert len(found["trials"]) == 30
    assert found["trials"][0]["settings"] == {"training.learning_rate": 2e-4, "adapter.rank": 2}
    best = found["trials"][found["best"]]
    assert best["settings"]["adapter.rank"] == 64
    assert 0.003 < best["settings"]["training.learning_rate"] < 0.03
    run_sweep(recipe(sweep={**TPE, "trials": 32}), tmp_path)  # more of the same
    assert len(read_sweep(tmp_path)["trials"]) == 32


def test_a_search_whose_own_values_were_not_put_in_line_begins_with_them_all_the_same(tmp_path, made_up, monkeypatch):
    made_up(lambda made: [9.0, 1.0])
    enqueue = optuna.Study.enqueue_trial

    def full(*_):
        monkeypatch.setattr(optuna.Study, "enqueue_trial", enqueue)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(optuna.Study, "enqueue_trial", full)
    given = recipe(sweep={**TPE, "trials": 2})
    with pytest.raises(OSError, match="full"):
        run_sweep(given, tmp_path)
    run_sweep(given, tmp_path)
    first, _ = read_sweep(tmp_path)["trials"]
    assert first["settings"] == {"training.learning_rate": 2e-4, "adapter.rank": 2}


def test_own_values_are_those_of_the_list_however_they_are_written(tmp_path, made_up):
    made_up(lambda made: [9.0, made.adapter.alpha])
    space = {"adapter.alpha": [8, 16], "training.epochs": [1, 3]}  # numbers that a recipe holds as 16.0 and 3.0
    run_sweep(recipe(sweep={**TPE, "space": space, "trials": 3}), tmp_path / "list")
    first = read_sweep(tmp_path / "list")["trials"][0]
    assert first["settings"]["adapter.alpha"] == 16
    word = recipe(adapter={"alpha": "2r"}, sweep={**TPE, "space": {"adapter.alpha": {"low": 8, "high": 16}}})
    assert own_values(word, word.sweep) == {}  # a word lies in no range


def test_a_folder_that_was_renamed_is_the_same_search(tmp_path, made_up):
    done = made_up(lambda made: [9.0, 1.0])
    run_sweep(recipe(), tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    run_sweep(recipe(), tmp_path / "two")
    assert len(done) == 6
    with pytest.raises(UsageError, match="holds another sweep"):
        run_sweep(recipe(sweep={"space": {**SWEEP["space"], "adapter.rank": [8]}}), tmp_path / "two")


def test_a_search_is_under_way_between_its_trials_too(tmp_path, made_up, monkeypatch):
    made_up(lambda made: [9.0, 1.0])
    seen, take = [], module._Search.take
    monkeypatch.setattr(module._Search, "take", lambda search: seen.append(is_under_way(tmp_path)) or take(search))
    run_sweep(recipe(), tmp_path)
    assert (seen, is_under_way(tmp_path)) == (7 * [True], False)
    monkeypatch.setattr(module, "on_this_machine", lambda *_: seen.append(is_under_way(tmp_path)))
    run_sweep(recipe(), tmp_path, workers=2)  # whose processes take their time to start
    assert (seen, is_under_way(tmp_path)) == (8 * [True], False)
    assert not list(tmp_path.glob("trials/.worker-*"))


def test_runs_and_searches_have_folders_of_their_own(tmp_path, made_up):
    made_up(lambda made: [9.0, 1.0])
    run_sweep(recipe(), tmp_path / "sweep")
    with pytest.raises(UsageError, match=r"sweep holds a sweep or a study; name another --output"):
        RunDirectory(tmp_path / "sweep").begin("seed: 0", {}, {})
    RunDirectory(tmp_path / "run").begin("seed: 0", {}, {})
    with pytest.raises(UsageError, match=r"run holds a run; name another --output"):
        run_sweep(recipe(), tmp_path / "run")


def test_a_search_in_parts_tries_what_one_in_a_piece_does(tmp_path, made_up):
    made_up(lambda made: [9.0, made.adapter.rank + made.training.learning_rate])
    run_sweep(recipe(sweep={**TPE, "trials": 12}), tmp_path / "whole")
    for trials in (3, 7, 12):
        run_sweep(recipe(sweep={**TPE, "trials": trials}), tmp_path / "parts")
    whole, parts = (read_sweep(tmp_path / name)["trials"] for name in ("whole", "parts"))
    assert [trial["settings"] for trial in parts] == [trial["settings"] for trial in whole]
    assert len({trial["settings"]["training.learning_rate"] for trial in whole}) == 12


def test_a_trial_whose_worker_died_before_it_held_the_lock_is_taken_up(tmp_path, made_up):
    made_up(lambda made: [9.0, 1.0])
    search = module._Search(recipe(), tmp_path, None, None)
    (tmp_path / "trials").mkdir()
    search.study.ask()  # and killed here
    run_sweep(recipe(), tmp_path)
    trials = read_sweep(tmp_path)["trials"]
    assert ([trial["state"] for trial in trials], len(set(settings(trials)))) == (["complete"] * 6, 6)


@pytest.mark.parametrize("shared", [False, True])
def test_a_trial_that_ends_while_another_worker_looks_for_one_is_not_done_again(tmp_path, made_up, monkeypatch, shared):
    made_up(lambda made: [9.0, 1.0])
    (tmp_path / "trials").mkdir()
    storage = f"sqlite:///{tmp_path / 'shared.db'}" if shared else None
    one, two = (module._Search(recipe(), tmp_path, storage, None) for _ in range(2))
    trial, held = one.take()

    def ends(*_):
        one.do(trial)
        held.release()
        return False

    monkeypatch.setattr(two, "elsewhere", ends)  # asked for between the list of trials and the lock
    monkeypatch.setattr(one, "record", lambda: None)  # the other holds what it needs
    taken, lock = two.take()
    lock.release()
    assert (trial.number, taken.number) == (0, 1)


def test_a_value_that_is_no_number_is_a_failure(tmp_path, made_up, monkeypatch):
    made_up(lambda made: [9.0, 1.0])
    monkeypatch.setattr(module, "objective", lambda run, made, sweep: float("nan") if made.adapter.rank == 3 else 1.0)
    run_sweep(recipe(), tmp_path)
    causes = [trial["cause"] for trial in read_sweep(tmp_path)["trials"] if trial["settings"]["adapter.rank"] == 3]
    assert causes == ["validation_loss = nan: it stopped being a number"] * 2


def test_a_full_disk_stops_the_search_and_leaves_the_trial(tmp_path, made_up):
    full = [True]

    def losses(made):
        if made.adapter.rank == 3 and full[0]:
            raise NoRoomError("there is no room on the disk")
        return [9.0, 1.0]

    made_up(losses)
    with pytest.raises(NoRoomError):
        run_sweep(recipe(), tmp_path)
    full[0] = False
    run_sweep(recipe(), tmp_path)
    trials = read_sweep(tmp_path)["trials"]
    assert ([trial["state"] for trial in trials], len(set(settings(trials)))) == (["complete"] * 6, 6)


def test_what_this_machine_cannot_judge_is_said_before_the_first_trial(tmp_path, monkeypatch):
    def missing(recipe):
        raise FlextuneError("java is missing")

    monkeypatch.setattr(pipeline, "check", missing)
    with pytest.raises(FlextuneError, match="java is missing"):
        run_sweep(recipe(), tmp_path)
    assert not (tmp_path / "trials").exists()


def test_machines_with_a_storage_in_common_do_each_trial_once(tmp_path, made_up):
    """Both open the study before either has begun, and take turns in the worst order."""
    made_up(lambda made: [9.0, 1.0])
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    folders = [tmp_path / name / "sweep" for name in ("one", "two")]
    for folder in folders:
        (folder / "trials").mkdir(parents=True)
    for sweep in (SWEEP, {**TPE, "trials": 5}):
        name = f"{storage}-{sweep.get('sampler')}"
        machines = [module._Search(recipe(sweep=sweep), folder, name, None) for folder in folders]
        taken = [machine.take() for machine in machines * 4]
        numbers = sorted(trial.number for found in taken if found for trial in found[:1])
        assert numbers == list(range(machines[0].trials))
        for found in taken:
            if found:
                machines[0].do(found[0])
                found[1].release()
        machines[0].record()
        assert len(set(settings(read_sweep(folders[0])["trials"]))) == len(numbers)


def test_a_trial_of_another_machine_is_left_alone_unless_nobody_began_it(tmp_path, made_up, monkeypatch):
    made_up(lambda made: [9.0, 1.0])
    (tmp_path / "sweep/trials").mkdir(parents=True)
    search = module._Search(recipe(), tmp_path / "sweep", f"sqlite:///{tmp_path / 'shared.db'}", None)
    search.study.ask()  # by a machine that died before it said so
    search.study.ask().set_user_attr("machine", "another")
    later = datetime.datetime.now() + datetime.timedelta(seconds=module.ABANDONED + 1)
    held = [search.take()]
    monkeypatch.setattr(module, "_now", lambda: later)
    held += [search.take(), search.take()]
    assert [trial.number for trial, _ in held] == [2, 0, 3]


@pytest.mark.parametrize("storage", ["nonsense", "grpc://localhost", "grpc://localhost:1"])
def test_a_storage_that_is_none(tmp_path, made_up, storage):
    made_up(lambda made: [9.0, 1.0])
    with pytest.raises(UsageError, match=r"^storage = '.*'[: ].*") as raised:
        run_sweep(recipe(), tmp_path, storage=storage)
    assert "\n" not in str(raised.value)


def test_trials_under_way_take_time_too():
    def trial(seconds=None):
        state = optuna.trial.TrialState.RUNNING if seconds is None else optuna.trial.TrialState.COMPLETE
        made = optuna.trial.create_trial(state=state, value=None if seconds is None else 1.0)
        if seconds is not None:
            made.set_user_attr("seconds", seconds)
        return made

    too_long = module._would_take_too_long
    assert not too_long([trial(), trial()], 1)  # nothing is known yet
    # two workers, an hour, trials of 35 minutes: when the first ends, the other's still counts
    assert not too_long([trial(35)], 120)
    assert too_long([trial(35), trial(35), trial()], 120)
    assert not too_long([trial(0.0), trial(30), trial(30)], 120)
    assert too_long([], 0)  # the model as it came took all of it


def test_trials_that_failed_say_nothing_of_how_long_one_takes():
    def trial(seconds, failed):
        state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
        made = optuna.trial.create_trial(state=state, value=None if failed else 1.0)
        made.set_user_attr("seconds", seconds)
        return made

    quick = [trial(10, True), trial(10, True)]
    assert module._would_take_too_long([trial(3600, False), *quick], 3680)
    assert not module._would_take_too_long([trial(3600, False), *quick], 7220)
    assert module._would_take_too_long(quick, 25)  # nothing better is known


def test_own_values_that_the_recipe_leaves_out_are_drawn():
    space = {"training.batch_tokens": {"low": 64, "high": 512, "whole": True}, "adapter.peft.use_rslora": [True, False]}
    made = recipe(sweep={**TPE, "space": {**space, "adapter.rank": [2, 4]}})
    assert own_values(made, made.sweep) == {"adapter.rank": 2}


def test_a_loss_worse_than_the_others_ends_a_trial(tmp_path, made_up):
    made_up(lambda made: [9.0, 5.0 if made.adapter.rank == 64 else 1.0])
    run_sweep(recipe(sweep={**TPE, "trials": 20}), tmp_path)
    trials = read_sweep(tmp_path)["trials"]
    ended = [trial for trial in trials if trial["state"] == "pruned"]
    assert ended
    assert all((t["settings"]["adapter.rank"], t["value"], t["so_far"]["1"]) == (64, None, 5.0) for t in ended)
    assert all(trial["number"] >= 4 for trial in ended)  # there has to be something to compare with


@pytest.mark.parametrize("measured", [1, 2])
def test_problems_solved_less_often_end_a_trial_while_there_is_something_to_save(
    tmp_path, made_up, monkeypatch, measured
):
    """Some trials solve 18 of 20 problems, others 2 of them: by Wilcoxon's test they are worse."""
    benchmarks = ["basics-python", "basics-java"]

    def run(made, folder):
        bad = made.adapter.rank == 64
        for benchmark in benchmarks[: measured if bad else 2]:
            solve(folder, made, benchmark, range(2 if bad else 18), 20)

    made_up(lambda made: [])
    monkeypatch.setattr(pipeline, "run", run)
    sweep = {**TPE, "space": {"adapter.rank": [2, 64]}, "trials": 8, "objective": "pass@1"}
    run_sweep(recipe(sweep=sweep, evaluation={"benchmarks": benchmarks}), tmp_path)
    states = {(trial["settings"]["adapter.rank"], trial["state"]) for trial in read_sweep(tmp_path)["trials"]}
    assert states == {(2, "complete"), (64, "pruned" if measured == 1 else "complete")}


def test_a_trial_measures_no_more_than_the_search_goes_by(tmp_path, made_up, monkeypatch):
    done = []

    def run(made, folder):
        done.append(made)
        solve(folder, made, "basics-python", range(3), 20)

    made_up(lambda made: [])
    monkeypatch.setattr(pipeline, "run", run)
    evaluation = {"benchmarks": ["basics-python"], "decodings": {"greedy": {}, "warm": {"kind": "sampling"}}}
    given = recipe(sweep={"space": {"adapter.rank": [2]}, "objective": "pass@1"}, evaluation=evaluation)
    assert given.variants == ["base", "unmerged"]
    run_sweep(given, tmp_path)
    assert [(made.variants, list(made.evaluation.decodings)) for made in done] == [(["unmerged"], ["greedy"])]


@pytest.mark.parametrize(
    ("sweep", "keys", "message"),
    [
        ({"space": {"a.b": [1]}}, {}, "sweep.space: a is not a key of a recipe"),
        ({"space": {"adapter.rank": [0]}}, {}, "adapter.rank = 0: "),
        (
            {"space": {"adapter.rank": [2, 2]}},
            {},
            r"space.adapter.rank = \[2, 2\]: expected at least one value, each once",
        ),
        ({"space": {}}, {}, "expected at least one key"),
        ({"space": {"adapter.rank": {"low": 1, "high": 8}}}, {}, "is a range: with sampler: grid every key has a list"),
        ({**TPE, "trials": None}, {}, "trials = None with sampler: tpe: expected a number with tpe"),
        ({"space": {"adapter.rank": {"low": 8, "high": 1}}}, {}, "low = 8, high = 1: expected low below high"),
        (
            {**TPE, "space": {"adapter.rank": {"low": 2, "high": 64}}},
            {},
            r"sweep.space: adapter.rank = 25.684: .*; if adapter.rank takes whole numbers only, write whole: true",
        ),
        (
            {**TPE, "space": {"training.learning_rate": {"low": 1, "high": float("inf")}}},
            {},
            r"space.training.learning_rate.high = inf: expected a finite number",
        ),
        (
            {**TPE, "space": {"adapter.rank": {"low": 2, "hig": 64}}},
            {},
            r"space.adapter.rank = \{'low': 2, 'hig': 64\}: expected a list of values, or numbers between two as",
        ),
        ({"space": {"adapter.rank": 8}}, {}, "space.adapter.rank = 8: expected a list of values, or numbers between"),
        ({"space": {"training.dataset": ["basics"]}}, {}, "changes what the validation loss is measured on"),
        ({"space": {"seed": [1]}, "objective": "pass@1"}, {}, "needs evaluation.benchmarks"),
        (
            {"space": {"seed": [1]}, "objective": "pass@1"},
            {"evaluation": {"benchmarks": ["humaneval-java"]}},
            "humaneval-java: what is reported must not choose. Measure mbpp-validation",
        ),
        (
            {"space": {"evaluation.without": [[], ["HumanEval/0"]]}, "objective": "pass@1"},
            {"evaluation": {"benchmarks": ["humaneval"], "only": ["HumanEval/0", "HumanEval/1"]}},
            "evaluation.without would change what is measured",
        ),
        (
            {"space": {"evaluation.benchmarks": [["humaneval"]]}, "objective": "pass@1"},
            {"evaluation": {"benchmarks": ["basics-python"]}},
            "evaluation.benchmarks would change what is measured",
        ),
        (
            {"space": {"adapter.rank": [2]}, "objective": "pass@1"},
            {"evaluation": {"benchmarks": ["basics-python"], "variants": ["base"]}},
            r"variants = \[base\] measures no adapter",
        ),
        ({"space": {"training.learning_rate": ["1e-4", 0.0001]}}, {}, "would be tried twice"),
        ({"space": {"seed": [1]}, "only": {"seed": {"x": [1]}}}, {}, "only.seed.x: both have to be keys of space"),
    ],
)
def test_a_search_that_cannot_be_is_refused_at_once(sweep, keys, message):
    with pytest.raises(UsageError, match=message):
        recipe(sweep=sweep, **keys)


def test_a_sweep_goes_by_an_adapter_whatever_the_order(tmp_path):
    for variants in (["unmerged", "base"], ["base", "unmerged"], None):
        made = recipe(evaluation={"benchmarks": ["basics-python"], "variants": variants})
        assert measured_by(tmp_path, made, "basics-python").path.parent.name == "unmerged"


def test_problems_of_a_reported_benchmark_choose_where_they_are_named():
    keys = {"benchmarks": ["humaneval"], "only": ["HumanEval/0"]}
    found = recipe(sweep={"space": {"seed": [1, 2]}, "objective": "pass@1"}, evaluation=keys)
    assert found.evaluation.only == ["HumanEval/0"]


def test_a_disk_that_was_full_in_the_middle_of_a_line_takes_nothing_from_a_search(tmp_path, made_up):
    room = iter([True, False])

    def losses(made):
        if not next(room, True):
            raise OSError("No space left on device")
        return [9.0, 1.0]

    made_up(losses)
    with pytest.raises(OSError, match="No space left"):
        run_sweep(recipe(), tmp_path)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"op_code":8,"trial_id":')
    run_sweep(recipe(), tmp_path)
    run_sweep(recipe(), tmp_path)  # it can be read again
    trials = read_sweep(tmp_path)["trials"]
    assert settings(trials) == settings([{"settings": chosen} for chosen in Sweep(**SWEEP).grid()])
    assert {trial["state"] for trial in trials} == {"complete"}


def test_a_damaged_journal_is_named(tmp_path, made_up):
    made_up(lambda made: [9.0, 1.0])
    run_sweep(recipe(), tmp_path)
    journal = tmp_path / JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([lines[0], "}{\n", *lines[1:]]))
    with pytest.raises(FlextuneError, match=f"{JOURNAL} is damaged .*name another --output"):
        run_sweep(recipe(), tmp_path)


def test_another_search_in_the_folder_is_refused(tmp_path, made_up):
    made_up(lambda made: [9.0, 1.0])
    run_sweep(recipe(), tmp_path)
    with pytest.raises(UsageError, match=r"holds another sweep: sweep.space.adapter.rank is .*name another --output"):
        run_sweep(recipe(sweep={"space": {**SWEEP["space"], "adapter.rank": [8]}}), tmp_path)


def test_decodings_that_go_with_some_values_only():
    kind = "evaluation.decodings.d.kind"
    sweep = Sweep(
        space={
            kind: ["greedy", "sampling", "beam"],
            "evaluation.decodings.d.temperature": [0.2, 0.8],
            "evaluation.decodings.d.beams": [2, 4],
        },
        only={
            "evaluation.decodings.d.temperature": {kind: ["sampling"]},
            "evaluation.decodings.d.beams": {kind: ["beam"]},
        },
        objective="pass@1",
    )
    assert len(sweep.grid()) == 5
    content = {"adapter": "a", "benchmarks": ["basics-python"], "decodings": {"d": {}}}
    parse_recipe({"model": "m", "evaluation": content, "sweep": vars(sweep)}, "recipe")  # each makes a recipe


@pytest.mark.slow
def test_killed_with_two_workers_it_goes_on_without_losing_or_repeating_a_trial(tiny_model, tmp_path):
    # so many steps that this process sees a trial learn, however busy the machine is
    training = {"dataset": "basics", "limit": 12, "validation": 4, "epochs": 30, "checkpoint_steps": 1}
    made = recipe(tiny_model, sweep={"space": {"adapter.rank": [2, 3, 4]}}, training=training)
    output = tmp_path / "sweep"
    process = start(tmp_path, made, output, 2)
    deadline = time.monotonic() + 1200
    while process.poll() is None and time.monotonic() < deadline:  # until one is recorded and another is learning
        record = read_json(output / "sweep.json")["trials"] if (output / "sweep.json").exists() else []
        whole = [output / trial["run"] for trial in record if trial["state"] == "complete"]
        if whole and any(output.glob("trials/0*/checkpoints/*")):
            break
        time.sleep(0.01)
    started = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while any(map(alive, started)) and time.monotonic() < deadline:
        time.sleep(0.01)
    before = {path: read_json(RunDirectory(path).provenance)["starts"] for path in whole}
    assert before
    code = start(tmp_path, made, output, 2)
    _, err = code.communicate(timeout=1200)
    assert code.returncode == 0, err
    trials = read_sweep(output)["trials"]
    assert settings(trials) == settings([{"settings": chosen} for chosen in made.sweep.grid()])
    assert {trial["state"] for trial in trials} == {"complete"}
    assert len(list(output.glob("trials/0*"))) == 3
    for path, starts in before.items():  # what was recorded was not done again
        assert read_json(RunDirectory(path).provenance)["starts"] == starts
    losses = {trial["number"]: trial["value"] for trial in trials}
    # those that were going on ended as undisturbed ones do
    left = [n for n in losses if len(read_json(RunDirectory(output / f"trials/{n:04d}").provenance)["starts"]) > 1]
    assert left
    for number in left:
        again = tmp_path / f"again-{number}"
        chosen = next(trial["settings"] for trial in trials if trial["number"] == number)
        whole = change(made, {**chosen, "sweep": None}, "again")
        pipeline.run(whole, again)
        assert module.objective(again, whole, made.sweep) == pytest.approx(losses[number], rel=1e-6)


def test_no_cluster_at_the_address(tmp_path, made_up):
    pytest.importorskip("ray", reason="ray is not installed (pip install 'flextune[ray]')")
    made_up(lambda made: [9.0, 1.0])
    with pytest.raises(FlextuneError, match=r"ray = 'localhost:1': there is no cluster"):
        run_sweep(recipe(), tmp_path, workers=2, ray="localhost:1")


def test_without_optuna_the_verb_says_what_to_install(monkeypatch, tmp_path, capsys):
    from flextune.cli import main

    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "flextune.studies.sweep")
    path = Path(tmp_path / "recipe.yaml")
    path.write_text("model: m\n")
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", str(path)])
    assert stopped.value.code == 2
    assert "optuna is missing: run `pip install 'flextune[sweep]'`" in " ".join(capsys.readouterr().err.split())
