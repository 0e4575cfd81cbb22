"""A study with trainings made by hand: what is run, what is chosen, what is written."""

import errno
import shutil
from dataclasses import replace

import pytest
from made_study import STUDY, Trainings, study_recipe
from transformers import LlamaConfig

from flextune import Evaluation, Training, pipeline
from flextune.cli import experiment
from flextune.errors import DivergedError, FlextuneError, NoRoomError, UsageError
from flextune.files import read_json
from flextune.progress import out
from flextune.recipe import dump_recipe
from flextune.rundir import RunDirectory
from flextune.studies import compare
from flextune.studies.compare import run_study


@pytest.fixture
def trainings(monkeypatch):
    stand_in = Trainings()
    monkeypatch.setattr(pipeline, "run", stand_in)
    monkeypatch.setattr(compare, "alone", lambda function, *arguments: function(*arguments))
    return stand_in


def test_a_study_from_trials_to_page(trainings, tmp_path):
    run_study(study_recipe(), tmp_path)
    content = read_json(tmp_path / "study.json")
    assert content["chosen"] == {"plain": {}, "decayed": {"training.learning_rate": 0.002}}
    assert [(trial["run"], trial["role"]) for trial in content["trials"]] == [
        ("trials/decayed/learning_rate-0.001-seed-7", "tune"),
        ("trials/decayed/learning_rate-0.002-seed-7", "tune"),
        ("trials/plain/seed-0", "seed"),
        ("trials/decayed/learning_rate-0.002-seed-0", "seed"),
        ("trials/plain/seed-1", "seed"),
        ("trials/decayed/learning_rate-0.002-seed-1", "seed"),
    ]
    decayed = content["comparison"][1]
    assert decayed["difference"]["value"] == pytest.approx(-0.38)  # decay 0.2, learning rate 0.18
    assert decayed["seeds"] == [0, 1]
    assert content["trials"][3] | {"validation_loss": 0} == {
        "arm": "decayed",
        "role": "seed",
        "settings": {"training.learning_rate": 0.002},
        "seed": 0,
        "validation_loss": 0,
        "best_validation_loss": pytest.approx(0.8),
        "perplexity": pytest.approx(2**0.8),
        "steps": 15,
        "seconds": 30.0,
        "peak_memory_mb": 115,
        "run": "trials/decayed/learning_rate-0.002-seed-0",
    }
    assert "decayed against plain" in (tmp_path / "report/index.html").read_text()


def test_the_command_runs_a_study_and_says_where_things_are(trainings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(out, "width", 200)
    path = tmp_path / "small.yaml"
    path.write_text(dump_recipe(study_recipe(seeds=[0])))
    experiment.run(str(path), output=str(tmp_path / "done"))
    printed = capsys.readouterr().out
    assert "decayed against plain: validation loss -0.3800" in printed
    for place in ("trials", "study.json", "report/index.html"):
        assert f": {tmp_path / 'done' / place}\n" in printed
        assert (tmp_path / "done" / place).exists()


def test_without_benchmarks_a_run_needs_no_sandbox(tiny_model, tmp_path, monkeypatch):
    def no_sandbox(*_):
        raise FlextuneError("no sandbox here")

    monkeypatch.setattr(pipeline, "prepare", no_sandbox)
    monkeypatch.setattr(pipeline, "_train", lambda *_: None)
    model, output = tmp_path / "model", tmp_path / "run"
    model.mkdir()
    (model / "config.json").touch()
    (model / "model.safetensors").touch()
    recipe = replace(study_recipe(), model=str(model), study=None)
    with pytest.raises(FlextuneError, match=r"model.config.json, line 1: not valid JSON"):
        pipeline.run(recipe, output)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaConfig(dtype="float32", **sizes).save_pretrained(model)
    for file in tiny_model.glob("tokenizer*"):
        shutil.copy(file, model)
    run = pipeline.run(recipe, output)
    assert (run.path / "report/index.html").exists()
    assert not run.comparison.exists()
    assert not (run.path / "evaluation").exists()
    with pytest.raises(FlextuneError, match="no sandbox here"):
        pipeline.run(replace(recipe, evaluation=Evaluation(benchmarks=["basics-python"])), output)


def test_what_is_added_later_runs_alone(trainings, tmp_path):
    run_study(study_recipe(), tmp_path)
    before = len(trainings.trained)
    more = {"seeds": [0, 1, 2], "compare": {**STUDY["compare"], "long": {"training.epochs": 9}}}
    run_study(study_recipe(**more), tmp_path)
    added = [str(path.relative_to(tmp_path / "trials")) for path in trainings.trained[before:]]
    assert added == ["long/seed-0", "long/seed-1", "plain/seed-2", "decayed/learning_rate-0.002-seed-2", "long/seed-2"]


def test_a_study_under_way_is_not_started_twice(trainings, tmp_path):
    with RunDirectory(tmp_path).lock(), pytest.raises(FlextuneError, match="another flextune process is writing"):
        run_study(study_recipe(), tmp_path)
    assert not trainings.trained


def test_another_study_is_refused_by_what_differs(trainings, tmp_path):
    run_study(study_recipe(), tmp_path)
    other = {"compare": {"plain": {}, "decayed": {"training.weight_decay": 0.3}}}
    with pytest.raises(UsageError, match=r"training.weight_decay is 0.1 there, 0.3 here"):
        run_study(study_recipe(**other), tmp_path)
    with pytest.raises(UsageError, match="no `study`"):
        run_study(replace(study_recipe(), study=None), tmp_path)


def test_one_run_does_no_study(tmp_path):
    for function in (pipeline.train_only, pipeline.run):
        with pytest.raises(UsageError, match="use `flextune run`"):
            function(study_recipe(), tmp_path)


def test_a_value_with_which_training_diverges_is_not_chosen(trainings, tmp_path, monkeypatch):
    def train(recipe, output):
        if recipe.training.learning_rate == 0.002:
            raise DivergedError("the training loss is nan at step 3")
        return trainings(recipe, output)

    monkeypatch.setattr(pipeline, "run", train)
    run_study(study_recipe(), tmp_path)
    content = read_json(tmp_path / "study.json")
    assert content["chosen"]["decayed"] == {"training.learning_rate": 0.001}
    assert content["trials"][1]["validation_loss"] is None
    assert content["trials"][1]["cause"] == "the training loss is nan at step 3"
    page = (tmp_path / "report/index.html").read_text()
    assert "failed: the training loss is nan at step 3" in page
    assert "is in no mean" not in page


def test_without_a_value_that_works_the_study_says_so(trainings, tmp_path, monkeypatch):
    def diverge(recipe, output):
        raise DivergedError("the training loss is nan at step 3")

    monkeypatch.setattr(pipeline, "run", diverge)
    failed = "all {} trainings failed: the training loss is nan at step 3"
    with pytest.raises(FlextuneError, match=f"^study.tune.decayed: {failed.format(2)}; name other values$"):
        run_study(study_recipe(), tmp_path)
    with pytest.raises(FlextuneError, match=f"^study.seeds: {failed.format(4)}$"):
        run_study(study_recipe(tune={}), tmp_path)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemoryError("4 GiB"), "MemoryError: 4 GiB"),
        (OSError(errno.ENOMEM, "no memory"), "OSError: [Errno 12] no memory"),
    ],
)
def test_a_seed_that_fails_is_recorded_and_the_others_go_on(trainings, tmp_path, monkeypatch, error, cause):
    def train(recipe, output):
        if recipe.seed == 1 and recipe.training.weight_decay:
            raise error
        return trainings(recipe, output)

    monkeypatch.setattr(pipeline, "run", train)
    run_study(study_recipe(seeds=[0, 1, 2]), tmp_path)
    content = read_json(tmp_path / "study.json")
    (failed,) = (trial for trial in content["trials"] if "cause" in trial)
    assert (failed["arm"], failed["seed"], failed["cause"]) == ("decayed", 1, cause)
    plain, decayed = content["comparison"]
    assert (plain["seeds"], decayed["seeds"]) == ([0, 1, 2], [0, 2])
    assert decayed["difference"]["value"] == pytest.approx(-0.38)
    assert decayed["difference"]["n"] == 2
    monkeypatch.setattr(pipeline, "run", trainings)
    run_study(study_recipe(seeds=[0, 1, 2]), tmp_path)  # the same again does what is missing
    assert read_json(tmp_path / "study.json")["comparison"][1]["seeds"] == [0, 1, 2]


@pytest.mark.parametrize("fault", [OSError("the disk"), NoRoomError("full"), UsageError("no such model")])
def test_a_fault_of_the_machine_or_the_recipe_stops_the_study(trainings, tmp_path, monkeypatch, fault):
    def train(recipe, output):
        raise fault

    monkeypatch.setattr(pipeline, "run", train)
    with pytest.raises(type(fault), match=str(fault)):
        run_study(study_recipe(), tmp_path)


def test_a_loss_that_stops_being_a_number_in_a_process_of_its_own(tmp_path, tiny_model):
    compared = {"calm": {}, "wild": {"training.learning_rate": 1e30, "training.warmup": 0}}
    training = Training(validation=4, batch_size=4)
    recipe = replace(study_recipe(compare=compared, tune={}, seeds=[0]), model=str(tiny_model), training=training)
    run_study(recipe, tmp_path)
    calm, wild = read_json(tmp_path / "study.json")["trials"]
    assert calm["validation_loss"] > 0
    assert wild["validation_loss"] is None
    assert "fourier_loss is nan at step 1: lower training.learning_rate" in wild["cause"]
