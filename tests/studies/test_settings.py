import pytest
from made_study import study_recipe
from pydantic import ValidationError

from flextune.studies.settings import Study


def test_the_grid_is_every_combination_and_an_arm_without_values_has_none():
    study = Study(compare={"a": {}, "b": {}}, tune={"b": {"x": [1, 2], "y": [3, 4]}}, seeds=[0])
    assert study.grid("a") == []
    assert study.grid("b") == [{"x": 1, "y": 3}, {"x": 1, "y": 4}, {"x": 2, "y": 3}, {"x": 2, "y": 4}]
    assert study.reference == "a"


TWO = {"a": {}, "b": {}}


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"compare": {"a": {}}}, "expected at least two arms"),
        ({"compare": {"a": {}, "../b": {}}}, "'../b' has to be a folder's name"),
        ({"compare": {"a": {}, "..": {}}}, "'..' has to be a folder's name"),
        ({"tune": {"c": {"seed": [1]}}}, "'c' is not an arm; study.compare has a, b"),
        ({"tune": {"b": {"training.warmup": []}}}, "tune.b: training.warmup has no values"),
        ({"seeds": []}, "seeds = .*: expected at least one, each once"),
        ({"seeds": [1, 1]}, "seeds = .*: expected at least one, each once"),
        ({"seeds": [-1]}, "greater than or equal to 0"),
        ({"tune": {"b": {"training.warmup": [0]}}, "tune_seed": 0}, "tune_seed = 0: is one of seeds"),
        ({"compare": {"a": {}, "b": {"training.optimiser": "x"}}}, "study.compare.b: training.optimiser is not a key"),
        ({"compare": {"a": {}, "b": {"training.epochs": 0}}}, "study.compare.b: training.epochs = 0: expected"),
        ({"tune": {"b": {"training.warmup": [0, 2]}}}, "study.tune.b: training.warmup = 2: expected less than 1"),
        ({"tune": {"b": {"training.warmup": [0.1, "1e-1"]}}}, "study.tune.b: .* would be tried twice"),
        ({"tune": {"b": {"seed": [3]}}}, "study.tune.b: seed cannot be set here"),
        ({"compare": {"a": {}, "b": {"study.seeds": [5]}}}, "study.seeds cannot be set here"),
        ({"compare": {"a": {}, "b": {"training": {"epochs": 1}}}}, "training is a section: set its keys"),
        ({"compare": {"a": {}, "b": {"training.max_length": 64}}}, "changes what the validation loss is measured on"),
        ({"compare": {"a": {}, "b": {"training.limit": 64}}}, "changes what the validation loss is measured on"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(study, message):
    with pytest.raises(ValidationError, match=message):
        study_recipe(**{"compare": TWO, "tune": {}, **study})


def test_a_named_validation_set_stays_the_same_when_the_training_set_changes():
    from flextune import Recipe, Training

    study = {"compare": {"a": {}, "b": {"training.limit": 64}}, "seeds": [0]}
    recipe = Recipe(model="m", training=Training(validation="mbpp"), study=study)
    assert recipe.study.compare["b"] == {"training.limit": 64}
    with pytest.raises(ValidationError, match=r"study: needs training.validation"):
        Recipe(model="m", training=Training(), study=study)
