"""A toy whose best answer is known: it is found within the budget, without loss anywhere, and explained."""

import pytest
from made_rows import solve
from rich.console import Console

from flextune import pipeline
from flextune.errors import FlextuneError, UsageError
from flextune.files import write_json
from flextune.recipe import change, load_recipe, overridden
from flextune.report.autotune import read_autotune, summary
from flextune.report.find import is_under_way
from flextune.report.sweep import read_sweep
from flextune.studies import autotune as module
from flextune.studies import sweep
from flextune.studies.autotune import autotune, recipe_for
from flextune.studies.space import own_values

PROBLEMS = 40


class Clock:
    """A clock that only the toy's trials move."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def toy(monkeypatch):
    """Trials without a model: how many problems of each language are solved follows from the settings alone.

    Each trial takes so many seconds of a clock of its own.
    """

    def use(solved, seconds=0.0):
        done, clock = [], Clock()

        def run(made, folder):
            clock.now += seconds
            done.append(made)
            for benchmark, numbers in solved(made).items():
                solve(folder, made, benchmark, numbers, PROBLEMS)

        def alone(function, *arguments, stop=None):
            function(*arguments)

        for place in (module, sweep):
            monkeypatch.setattr(place, "alone", alone)
            monkeypatch.setattr(place, "time", clock)
        monkeypatch.setattr(pipeline, "check", lambda recipe: None)
        monkeypatch.setattr(pipeline, "run", run)
        return done

    return use


def made(trials=40, **keys):
    overrides = [f"sweep.trials={trials}", *(f"{key}={value}" for key, value in keys.items())]
    return overridden(recipe_for("m", "basics", ["java"]), overrides, "test")


def peaked(recipe):
    """Best with targets mlp, rank 16 and a learning rate of 2e-4; rank 32 is better still in Python, and ruins Java."""
    if recipe.training is None:
        return {"basics-python": range(12), "basics-java": range(12)}
    rate = recipe.training.learning_rate
    python = 14 + 4 * (recipe.adapter.targets == "mlp") + {4: 0, 8: 2, 16: 6, 32: 18}[recipe.adapter.rank]
    python -= 6 * (not 5e-5 < rate < 5e-4)
    java = {4: 12, 8: 12, 16: 11, 32: 2}[recipe.adapter.rank]  # one problem less is within noise, ten are not
    return {"basics-python": range(python), "basics-java": range(java)}


def printed(folder):
    console = Console(width=200)
    with console.capture() as text:
        console.print(summary(read_autotune(folder)))
    return text.get()


def test_the_known_best_is_found_without_loss_in_any_language(tmp_path, toy):
    toy(peaked)
    autotune(made(trials=40), tmp_path, minutes=10)
    found = load_recipe(tmp_path / "recipe.yaml")
    assert (found.adapter.targets, found.adapter.rank, found.sweep, found.seed) == ("mlp", 16, None, 1)
    assert found.variants == ["base", "unmerged"]
    assert 5e-5 < found.training.learning_rate < 5e-4
    record = read_autotune(tmp_path)
    # rank 32 has the highest mean, and is left out for what it does to Java
    best = max(record["candidates"], key=lambda candidate: candidate["value"])
    assert (best["settings"]["adapter.rank"], best["loses"]) == (32, ["basics-java"])
    assert record["chosen"] != best["number"]
    text = printed(tmp_path)
    assert "worse than the model as it came in some language" in text
    assert "adapter.targets=mlp adapter.rank=16" in text
    assert "basics-java: -2.5 points" in text
    assert "against the settings that the search began with (trial 0)" in text
    assert "adapter.rank: " in text


def test_of_as_many_problems_the_first_trial_is_chosen(tmp_path, toy):
    def equal(recipe):
        if recipe.training is None:
            return {"basics-python": range(4), "basics-java": range(4)}
        python, java = (0, 12) if recipe.adapter.rank == 8 else (1, 11)
        return {"basics-python": range(python), "basics-java": range(java)}

    assert (1 / PROBLEMS + 11 / PROBLEMS) / 2 > (0 / PROBLEMS + 12 / PROBLEMS) / 2  # as the machine adds
    toy(equal)
    autotune(made(trials=8), tmp_path, minutes=10)
    record = read_autotune(tmp_path)
    assert {4, 16, 32} & {candidate["settings"]["adapter.rank"] for candidate in record["candidates"]}
    assert (record["chosen"], read_sweep(tmp_path)["best"]) == (0, 0)


def test_the_budget_holds_and_what_was_done_counts(tmp_path, toy):
    done = toy(peaked, seconds=9)
    autotune(made(), tmp_path, minutes=1)
    assert len(done) == 1 + 5  # the base model, then the trials that end before the minute does
    assert [trial["seconds"] for trial in read_sweep(tmp_path)["trials"]] == [9] * 5
    autotune(made(), tmp_path, minutes=1)
    assert len(done) == 1 + 5 + 1  # the base model again, which the pipeline would skip
    autotune(made(), tmp_path, minutes=1.6)
    assert len(done) == 1 + 5 + 1 + 1 + 4  # what the trials took before counts; the base model takes its part again


def test_where_everything_loses_nothing_is_chosen(tmp_path, toy):
    def worse(recipe):
        numbers = range(12) if recipe.training else range(40)
        return {"basics-python": numbers, "basics-java": numbers}

    toy(worse)
    autotune(made(trials=3), tmp_path, minutes=10)
    assert read_autotune(tmp_path)["chosen"] is None
    assert not (tmp_path / "recipe.yaml").exists()
    assert "No setting is left: the model as it came is the best of them" in printed(tmp_path)


def test_where_nothing_is_gained_it_is_said(tmp_path, toy):
    toy(lambda recipe: {"basics-python": range(12), "basics-java": range(12)})
    autotune(made(trials=3), tmp_path, minutes=10)
    assert read_autotune(tmp_path)["chosen"] == 0  # of equals the first: the settings of the paper
    assert "Nothing was gained" in printed(tmp_path)
    assert "these are the settings that the search began with" in printed(tmp_path)


def test_where_the_first_settings_failed_it_is_said(tmp_path, toy):
    def fails(recipe):
        if recipe.training and recipe.adapter.rank == 8:
            raise FlextuneError("out of memory")
        return {"basics-python": range(12), "basics-java": range(12)}

    toy(fails)
    autotune(made(trials=4), tmp_path, minutes=10)
    assert (read_autotune(tmp_path)["first"], read_autotune(tmp_path)["against_first"]) == (None, None)
    assert "the settings that the search began with was not whole" in printed(tmp_path)
    assert "these are the settings" not in printed(tmp_path)


def test_a_toolchain_that_was_changed_on_the_way_is_said(tmp_path, toy):
    toy(peaked)
    autotune(made(trials=2), tmp_path, minutes=10)
    for execution in (tmp_path / "trials").glob("*/evaluation/basics-java/*/*/execution.json"):
        write_json(execution, {"limits": {}, "toolchains": {"java": "17"}})
    autotune(made(trials=2), tmp_path, minutes=10)  # the model as it came is measured anew, the trials are there
    assert "compared with the model as it came all the same: toolchains.java is " in printed(tmp_path)


def test_no_trial_at_all(tmp_path, toy):
    def fails(recipe):
        if recipe.training:
            raise FlextuneError("out of memory")
        return {"basics-python": range(12), "basics-java": range(12)}

    toy(fails)
    with pytest.raises(FlextuneError, match=r"no trial was whole; .*sweep.json has the causes"):
        autotune(made(trials=2), tmp_path, minutes=10)


def test_the_first_trial_has_the_settings_of_the_paper():
    recipe = recipe_for("m", languages=["java", "cpp"])
    assert recipe.evaluation.benchmarks == ["mbpp-validation", "mbpp-java-validation", "mbpp-cpp-validation"]
    own = own_values(recipe, recipe.sweep)
    assert own == {
        "adapter.targets": "mlp",
        "adapter.rank": 8,
        "penalty.strength": 0.02,
        "penalty.threshold": 0.5,
        "training.learning_rate": 2e-4,
    }
    assert not recipe.sweep.prune


def test_problems_that_chose_are_left_out_of_what_is_reported(tmp_path, toy):
    toy(lambda recipe: {name: range(12) for name in recipe.evaluation.benchmarks})
    names = ["own/1", "own/2"]
    own = {"evaluation.benchmarks": ["own.jsonl", "basics-javascript"], "evaluation.without": ["own/0"]}
    part = change(made(trials=1), {**own, "evaluation.only": names}, "test")
    autotune(part, tmp_path / "part", minutes=10)
    written = load_recipe(tmp_path / "part/recipe.yaml").evaluation
    assert (written.benchmarks, written.only) == (["own.jsonl", "humaneval-js"], None)
    assert written.without == ["own/0", *names]
    autotune(change(made(trials=1), own, "test"), tmp_path / "whole", minutes=10)  # all of it chose
    written = load_recipe(tmp_path / "whole/recipe.yaml").evaluation
    assert (written.benchmarks, written.without) == (["humaneval-js"], [])


def test_the_embedded_problems_choose_and_do_not_report(tmp_path, toy):
    toy(peaked)
    autotune(made(trials=1), tmp_path, minutes=10)
    assert load_recipe(tmp_path / "recipe.yaml").evaluation.benchmarks == ["humaneval", "humaneval-java"]


def test_what_only_chooses_names_no_problem_of_what_reports(tmp_path, toy):
    toy(lambda recipe: {name: range(12) for name in recipe.evaluation.benchmarks})
    keys = {"evaluation.only": ["mbpp/511"], "sweep.trials": 1}
    autotune(change(recipe_for("m"), keys, "test"), tmp_path, minutes=10)
    written = load_recipe(tmp_path / "recipe.yaml").evaluation
    assert (written.benchmarks, written.only, written.without) == (["humaneval", "humaneval-java"], None, [])


def test_it_is_under_way_from_the_first_measurement_to_the_choice(tmp_path, toy, monkeypatch):
    seen, judged = [], module._judged
    toy(lambda recipe: seen.append(is_under_way(tmp_path)) or peaked(recipe))
    monkeypatch.setattr(module, "_judged", lambda *args: seen.append(is_under_way(tmp_path)) or judged(*args))
    autotune(made(trials=1), tmp_path, minutes=10)
    assert (seen, is_under_way(tmp_path)) == ([True] * 3, False)


def test_the_strength_goes_with_the_rank():
    tried = change(recipe_for("m"), {"adapter.rank": 32, "sweep": None}, "test")
    assert tried.adapter.lora_alpha / tried.adapter.rank == 2


def test_what_cannot_be_tuned():
    with pytest.raises(UsageError, match="dataset = 'apps': only mbpp and basics have validation problems"):
        recipe_for("m", "apps")
    with pytest.raises(UsageError, match="a sweep whose objective is pass@1"):
        autotune(load_recipe("recipes/quickstart.yaml"), "x", minutes=1)
