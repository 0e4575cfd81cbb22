import pytest
import yaml
from pydantic import ValidationError

from flextune import Adapter, Decoding, Evaluation, Recipe, Training
from flextune.errors import UsageError
from flextune.recipe import change, describe_keys, dump_recipe, load_recipe, parse_recipe

RECIPE = "model: m\ntraining: {dataset: basics}\nevaluation: {benchmarks: [humaneval]}\n"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_yaml_python_and_command_line_mean_the_same(path):
    from_yaml = load_recipe(path, ["training.learning_rate=1e-4", "adapter.targets=[q_proj]"])
    from_python = Recipe(
        model="m",
        training=Training(dataset="basics", learning_rate=1e-4),
        adapter=Adapter(targets=["q_proj"]),
        evaluation=Evaluation(benchmarks=["humaneval"]),
    )
    assert from_yaml == from_python
    assert parse_recipe(yaml.safe_load(dump_recipe(from_yaml)), "again") == from_yaml


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_ratee=1", "training.learning_ratee is not a key of a recipe; did you mean learning_rate?"),
        ("trainin=1", "trainin is not a key of a recipe; did you mean training?"),
        ("execution.limits.cpu=3", "execution.limits.cpu is not a key .* execution.limits has cpu_seconds"),
        ("training.epochs=abc", "training.epochs = 'abc': expected a valid number"),
        ("adapter.rank=0", "adapter.rank = 0: expected greater than or equal to 1"),
        ("adapter.targets=foo", "adapter.targets = 'foo': expected 'attention', 'comprehensive', 'mlp'"),
        ("penalty.threshold=0", "penalty.threshold = 0: expected greater than 0"),
        ("evaluation.variants=[tuned]", "evaluation.variants.0 = 'tuned': expected 'base', 'unmerged' or 'merged'"),
        ("evaluation.variants=[base, base]", "expected at least one, each once"),
        ("evaluation.variants=[]", "expected at least one, each once"),
        ("training=null", "evaluation.variants = .*unmerged needs `training` or `evaluation.adapter`"),
        ("evaluation.adapter=x", "evaluation.adapter = 'x': a recipe with `training`"),
        ("evaluation.decodings={a: {temperature: 1}}", "temperature has no effect with kind: greedy"),
        ("evaluation.decodings={../a: {}}", "has to be a folder's name"),
        ("evaluation.benchmarks=[a/t.jsonl, b/t.jsonl]", "two would share the folder of a name"),
        ("seed=-1", "seed = -1: expected greater than or equal to 0"),
        ("model=", "model = None: expected a valid string"),
        ("nonsense", "an override is written section.key=value"),
    ],
)
def test_what_is_wrong_is_named(path, override, message):
    with pytest.raises(UsageError, match=message):
        load_recipe(path, ["evaluation.variants=[base, unmerged]", override])


def test_a_missing_key_a_missing_file_and_broken_yaml(tmp_path):
    with pytest.raises(UsageError, match="the key model is missing"):
        parse_recipe({}, "recipe.yaml")
    with pytest.raises(UsageError, match=r"none.yaml does not exist; flextune comes with recipes/quickstart.yaml"):
        load_recipe(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: m\n  training: [\n")
    with pytest.raises(UsageError, match=r"broken\.yaml, line 2: not valid YAML"):
        load_recipe(broken)


def test_python_meets_the_same_checks():
    with pytest.raises(ValidationError, match="greater than 0"):
        Decoding(kind="sampling", temperature=0)


def test_every_key_is_described():
    assert all(description for *_, description in describe_keys())
    assert "training.learning_rate" in [key for key, *_ in describe_keys()]
    assert "study.compare" in [key for key, *_ in describe_keys()]


def test_without_benchmarks_nothing_is_measured():
    assert Recipe(model="m", training=Training(), evaluation=Evaluation(benchmarks=[])).variants == []
    with pytest.raises(ValidationError, match="there is nothing to do"):
        Recipe(model="m", evaluation=Evaluation(benchmarks=[]))


def test_a_packaged_recipe_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("recipes/small/optimizers.yaml", ["data=FOLDER"])
    assert (recipe.study.reference, recipe.data) == ("adamw", "FOLDER")
    own = tmp_path / "recipes/small/optimizers.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(RECIPE)
    assert load_recipe("recipes/small/optimizers.yaml").model == "m"


def test_a_study_survives_the_way_to_yaml_and_back():
    recipe = load_recipe("recipes/small/optimizers.yaml")
    assert parse_recipe(yaml.safe_load(dump_recipe(recipe)), "again") == recipe


def test_an_error_in_an_arm_names_recipe_and_arm(path):
    study = "study={compare: {a: {}, b: {training.epoch: 1}}, seeds: [0]}"
    with pytest.raises(UsageError, match=r"recipe\.yaml: study\.compare\.b: training\.epoch is not a key .* epochs\?"):
        load_recipe(path, ["training.validation=4", study])


def test_a_changed_recipe_is_checked_like_any(path):
    recipe = load_recipe(path)
    assert change(recipe, {"training.epochs": 5, "adapter.peft.use_dora": True}, "here").adapter.peft["use_dora"]
    assert recipe.training.epochs == 3
    with pytest.raises(UsageError, match=r"here: model.x: model is not a section"):
        change(recipe, {"model.x": 1}, "here")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"quantization": "nf4", "merge_first": "runs/one"}, "quantization = 'nf4' with merge_first"),
        (
            {"quantization": "nf4", "training": {}, "evaluation": {"variants": ["base", "merged"]}},
            "merged into 4-bit weights is all but lost",
        ),
        ({"training": {"patience": 3}}, "patience = 3: needs training.validation"),
    ],
)
def test_settings_that_go_against_each_other(content, message):
    with pytest.raises(UsageError, match=message):
        parse_recipe({"model": "m", **content}, "recipe.yaml")


def test_a_study_needs_losses_at_the_same_step():
    study = {"compare": {"a": {}, "b": {"training.warmup": 0.5}}, "seeds": [0]}
    with pytest.raises(UsageError, match=r"study: training\.patience = 2: arms would stop at different steps"):
        parse_recipe({"model": "m", "training": {"validation": 4, "patience": 2}, "study": study}, "recipe.yaml")
