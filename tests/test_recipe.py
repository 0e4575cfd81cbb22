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
        ("training.validation=0", r"recipe\.yaml: training.validation = 0: expected greater than or equal to 1"),
        ("training.validation=true", "training.validation = True: expected a valid"),
        ("adapter.alpha=[1]", r"adapter.alpha = \[1\]: expected a valid"),
        ("adapter.rank=0", "adapter.rank = 0: expected greater than or equal to 1"),
        ("adapter.targets=foo", "adapter.targets = 'foo': expected 'attention', 'comprehensive', 'mlp'"),
        ("penalty.threshold=0", "penalty.threshold = 0: expected greater than 0"),
        ("evaluation.variants=[tuned]", "evaluation.variants.0 = 'tuned': expected 'base', 'unmerged' or 'merged'"),
        ("evaluation.variants=[base, base]", "expected each once"),
        ("training=null", "evaluation.variants = .*unmerged needs `training` or `evaluation.adapter`"),
        ("evaluation={variants: [base], scale: 0.5}", "evaluation.scale = 0.5: there is no adapter to measure"),
        ("evaluation.adapter=x", "evaluation.adapter = 'x': a recipe with `training`"),
        ("evaluation.decodings={a: {temperature: 1}}", "temperature has no effect with kind: greedy"),
        ("evaluation.decodings={../a: {}}", "has to be a folder's name"),
        ("evaluation.benchmarks=[a/t.jsonl, b/t.jsonl]", "two would share the folder of a name"),
        ("adapter.alpha=-1", "adapter.alpha = -1.0: expected a number above 0, or a multiple of the rank, such as 2r"),
        ("adapter.alpha=2x", "adapter.alpha = '2x': expected a number above 0, or a multiple of the rank"),
        ("adapter.alpha=0r", "adapter.alpha = '0r': expected a number above 0"),
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
    with pytest.raises(UsageError, match=r"none.yaml does not exist; .* recipes/quickstart.yaml, and .* recipes/paper"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match=r"recipes/papers/round-5.yaml does not exist; .* recipes/paper/round-5.yaml$"):
        load_recipe("recipes/papers/round-5.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: m\npenalty: {strength: 0}\npenalty: {threshold: 0.4}\n")
    with pytest.raises(UsageError, match=r"broken\.yaml, line 3: not valid YAML \(the key 'penalty' appears twice\)"):
        load_recipe(broken)
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
    with pytest.raises(ValidationError, match=r"evaluation.benchmarks = \[\], .*there is nothing to do"):
        Recipe(model="m", evaluation=Evaluation(benchmarks=[]))
    with pytest.raises(ValidationError, match=r"evaluation.variants = \[\], .*there is nothing to do"):
        Recipe(model="m", evaluation=Evaluation(variants=[]))


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


def decodings(given, **content):
    recipe = {"model": "m", "evaluation": {"benchmarks": ["humaneval"], "decodings": given}, **content}
    return parse_recipe(recipe, "recipe.yaml").evaluation.decodings


def test_lists_make_a_decoding_for_each_combination():
    found = decodings({"s": {"kind": "sampling", "temperature": [0.2, 0.8], "top_p": [0.9, 1], "samples": 5}, "g": {}})
    assert list(found) == ["s-0.2-0.9", "s-0.2-1", "s-0.8-0.9", "s-0.8-1", "g"]
    assert found["s-0.8-0.9"] == Decoding(kind="sampling", temperature=0.8, top_p=0.9, samples=5)
    assert found["g"] == Decoding()


def test_a_list_of_one_is_in_the_name_and_a_plain_value_is_not():
    assert list(decodings({"a": {"kind": "beam", "beams": [4]}, "b": {"kind": "beam", "beams": 4}})) == ["a-4", "b"]


def test_kinds_may_be_a_list():
    found = decodings({"b": {"kind": ["beam", "beam-sampling"], "beams": 3}})
    assert {name: decoding.kind for name, decoding in found.items()} == {
        "b-beam": "beam",
        "b-beam-sampling": "beam-sampling",
    }


def test_a_recipe_with_lists_survives_the_way_to_yaml_and_back(path):
    recipe = load_recipe(path, ["evaluation.decodings={b: {kind: beam, beams: [1, 4, 20]}}"])
    assert parse_recipe(yaml.safe_load(dump_recipe(recipe)), "again") == recipe
    assert list(recipe.evaluation.decodings) == ["b-1", "b-4", "b-20"]


def test_python_may_give_decodings_and_lists():
    found = Evaluation(decodings={"a": Decoding(), "b": {"kind": "beam", "beams": [2, 3]}}).decodings
    assert list(found) == ["a", "b-2", "b-3"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "beam", "beams": []}, r"decodings\.d\.beams = \[\]: expected at least one value, each once"),
        ({"kind": "beam", "beams": [2, 2]}, r"decodings\.d\.beams = \[2, 2\]: expected at least one value, each once"),
        ({"kind": "beam", "beams": [2, 21]}, r"decodings\.d-21\.beams = 21: expected less than or equal to 20"),
        ({"kind": "sampling", "top_p": [0.9, "x"]}, r"decodings\.d-x\.top_p = 'x': expected a valid number"),
        ({"kind": "sampling", "top_p": [[0.9]]}, r"top_p = \[0\.9\]: expected a valid number"),
        ({"kind": "sampling", "topp": [0.9]}, r"decodings\.d-0\.9\.topp is not a key .* did you mean top_p\?"),
        ({"kind": ["greedy", "sampling"], "top_k": 3}, r"decodings\.d-greedy\.top_k has no effect with kind: greedy"),
        ([1], r"decodings\.d = \[1\]: expected a dictionary"),
    ],
    ids=str,
)
def test_a_value_of_a_list_is_refused_by_its_key(settings, message):
    with pytest.raises(UsageError, match=message):
        decodings({"d": settings})


DRAWS, BEAMS = {"sampling", "beam-sampling"}, {"beam", "beam-sampling"}
KINDS = DRAWS | BEAMS | {"greedy"}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(
    ("name", "value", "kinds"),
    [
        ("temperature", 0.5, DRAWS),
        ("temperature", 1.0, DRAWS),  # also where it is what holds without it
        ("top_p", 0.9, DRAWS),
        ("top_k", 3, DRAWS),
        ("beams", 4, BEAMS),
        ("length_penalty", 1.0, BEAMS),
        ("samples", 2, {"sampling"}),
    ],
)
def test_a_setting_without_an_effect_is_refused(kind, name, value, kinds):
    settings = {**({"beams": 2} if kind in BEAMS else {}), "kind": kind, name: value}
    if kind in kinds:
        assert getattr(decodings({"d": settings})["d"], name) == value
    else:
        refused = "gives one completion of a problem" if name == "samples" else f"{name} has no effect with kind: "
        with pytest.raises(UsageError, match=rf"decodings\.d\.(samples: {kind} )?{refused}"):
            decodings({"d": settings})


@pytest.mark.parametrize("kind", sorted(BEAMS))
def test_beams_are_missing(kind):
    with pytest.raises(UsageError, match=f"beams is missing: kind: {kind} needs it, such as beams: 4"):
        decodings({"d": {"kind": kind}})


def test_tests_of_its_own_need_several_samples():
    assert decodings({"d": {"kind": "sampling", "samples": 5, "self_tests": 5}})["d"].self_tests == 5
    for settings in ({"self_tests": 5}, {"kind": "sampling", "self_tests": 5}):
        with pytest.raises(UsageError, match="self_tests has no effect on one sample"):
            decodings({"d": settings})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"backend": "openai"}, "server = None with backend: openai"),
        ({"server": "http://localhost:1/v1"}, "server = 'http://localhost:1/v1' with backend: transformers"),
        ({"backend": "vllm", "workers": 2}, "workers has no effect with backend: vllm"),
        ({"chat": True, "strip_prompt": True}, "strip_prompt has no effect with chat"),
        ({"batch_size": 0}, "generation.batch_size = 0: expected greater than or equal to 1"),
    ],
    ids=str,
)
def test_settings_of_generation_that_go_against_each_other(content, message):
    with pytest.raises(UsageError, match=message):
        decodings({"d": {}}, generation=content)


SERVER = {"backend": "openai", "server": "http://localhost:1/v1"}


def test_a_server_measures_the_model_that_it_has():
    assert decodings({"d": {}}, generation=SERVER)
    for content in ({"training": {}}, {"evaluation": {"adapter": "a", "variants": ["merged"]}}):
        with pytest.raises(UsageError, match=r"backend: openai: .*is a model of its own"):
            parse_recipe({"model": "m", "generation": SERVER, **content}, "recipe.yaml")


@pytest.mark.parametrize("generation", [{"backend": "vllm"}, SERVER], ids=lambda generation: generation["backend"])
def test_quantization_needs_transformers(generation):
    with pytest.raises(UsageError, match=f"quantization = 'nf4' with generation.backend: {generation['backend']}"):
        decodings({"d": {}}, generation=generation, quantization="nf4")
    assert decodings({"d": {}}, quantization="nf4")


def test_two_decodings_of_one_name_are_refused():
    with pytest.raises(UsageError, match="beam-4"):
        decodings({"beam": {"kind": "beam", "beams": [4]}, "beam-4": {}})


def test_one_number_written_in_two_ways_stands_there_twice():
    with pytest.raises(UsageError, match="each once"):
        decodings({"s": {"kind": "sampling", "temperature": [1, 1.0]}})


def test_a_number_is_no_name():
    with pytest.raises(UsageError, match=r"decodings.* expected a valid string"):
        decodings({4: {"kind": "beam", "beams": [4, 5]}})


def test_a_key_is_named_once():
    with pytest.raises(UsageError, match=r"^recipe\.yaml: evaluation\.decodings\.d\.beams = \[\]: "):
        decodings({"d": {"kind": "beam", "beams": []}})


def test_no_decoding_at_all_is_refused():
    with pytest.raises(UsageError, match=r"evaluation\.decodings = \{\}"):
        decodings({})


def test_a_study_needs_losses_at_the_same_step():
    study = {"compare": {"a": {}, "b": {"training.warmup": 0.5}}, "seeds": [0]}
    with pytest.raises(UsageError, match=r"study: training\.patience = 2: arms would stop at different steps"):
        parse_recipe({"model": "m", "training": {"validation": 4, "patience": 2}, "study": study}, "recipe.yaml")
