import pytest
import yaml
from pydantic import ValidationError

from flextune import Adapter, Decoding, Evaluation, Recipe, Training
from flextune.errors import UsageError
from flextune.recipe import describe_keys, dump_recipe, load_recipe, parse_recipe

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
    with pytest.raises(UsageError, match="does not exist"):
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
