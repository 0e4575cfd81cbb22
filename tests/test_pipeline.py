"""The whole pipeline on a tiny model: all stages, killed at each, on input that is wrong."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from made_run import make_run
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from flextune import Recipe, Training, UsageError, pipeline, run
from flextune.errors import FlextuneError
from flextune.files import read_json, read_jsonl, sha256, write_jsonl
from flextune.generation.engine import Engine
from flextune.inputs import find_inputs, load_data
from flextune.pipeline import _begin, train_only
from flextune.recipe import load_recipe, parse_recipe
from flextune.report.card import write_card
from flextune.rundir import RunDirectory
from flextune.tuning import train as stage

RECIPE = """
model: {model}
dtype: float32
training: {{dataset: basics, limit: 24, epochs: 2, batch_size: 4, learning_rate: 1e-2, checkpoint_steps: 3}}
adapter: {{targets: mlp, rank: 2, dropout: 0.1}}
evaluation: {{benchmarks: [basics-python, basics-java], limit: 4, variants: [base, unmerged, merged]}}
generation: {{max_new_tokens: 12, batch_size: 1}}
"""


@pytest.fixture(scope="module")
def recipe(tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE.format(model=tiny_model))
    return path


def save_adapter(model, folder, seed=0):
    """An adapter of the model with random factors."""
    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)


def flextune(*arguments, **options):
    command = [sys.executable, "-m", "flextune", *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def finished(*arguments):
    process = flextune(*arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    code, out, err = finished("run", recipe, "--output", output)
    assert code == 0, err
    return output, out, err


def everything_that_counts(output):
    """The results of a run, without times."""
    run = RunDirectory(output)
    found = {"adapter": sha256(run.adapter / "adapter_model.safetensors")}
    found["loss"] = [(row["step"], row["loss"], row["grad_norm"]) for row in read_jsonl(run.metrics)]
    found["comparison"] = read_json(run.comparison)
    found["card"] = (run.adapter / "README.md").read_text()
    for path in sorted(output.glob("evaluation/*/*/*/*.json*")):
        rows = [read_json(path)] if path.suffix == ".json" else list(read_jsonl(path))
        found[str(path.relative_to(output))] = [
            {key: value for key, value in row.items() if key not in ("seconds", "detail")} for row in rows
        ]
    return found


def test_every_stage_writes_its_files(undisturbed):
    output, out, err = undisturbed
    run = RunDirectory(output)
    for benchmark in ("basics-python", "basics-java"):
        assert len(list(read_jsonl(run.problems(benchmark)))) == 4
        for variant in ("base", "unmerged", "merged"):
            measurement = run.measurement(benchmark, variant, "greedy")
            assert set(next(iter(read_jsonl(measurement.completions)))) == {
                *("task_id", "sample", "completion", "raw", "finish_reason", "tokens")
            }
            scores = read_json(measurement.scores)
            assert (scores["problems"], scores["samples"]) == (4, 4)
            assert sum(scores["verdicts"].values()) == 4
    assert len(list(read_jsonl(run.metrics))) == 12
    assert (run.adapter / "adapter_config.json").exists()
    assert "</html>" in (run.report / "index.html").read_text()
    card = ModelCard.load(run.adapter / "README.md")
    assert [(r.dataset_name, r.metric_args["variant"], r.metric_value) for r in card.data.eval_results] == [
        (name, variant, read_json(run.measurement(name, variant, "greedy").scores)["pass@1"]["value"])
        for name in ("basics-python", "basics-java")
        for variant in ("unmerged", "merged")
    ]
    rows = read_json(run.comparison)
    assert [(row["benchmark"], row["variant"], row["against"]) for row in rows] == [
        ("basics-python", "unmerged", "base"),
        ("basics-python", "merged", "base"),
        ("basics-java", "unmerged", "base"),
        ("basics-java", "merged", "base"),
        ("together", "merged", "base"),
        ("together", "unmerged", "base"),
        ("basics-python", "merged", "unmerged"),
        ("basics-java", "merged", "unmerged"),
        ("together", "merged", "unmerged"),
    ]
    assert {row["problems"] for row in rows} == {4}  # a problem and its translation are one
    record = read_json(run.provenance)
    assert set(record["inputs"]) == {
        *("model", "model files", "dtype", "training processes"),
        *("benchmark basics-python", "benchmark basics-java", "training set basics"),
    }
    assert {"python", "torch", "toolchain java"} <= set(record["starts"][0]["versions"])
    assert not list(output.rglob("*partial*"))
    assert not run.checkpoints.exists()
    assert "basics-java, merged against base" in out
    assert f"Report: {output}/report/index.html" in out
    assert "%|" not in err  # no progress bar where there is no terminal


def test_a_second_time_does_nothing(undisturbed, recipe):
    output, *_ = undisturbed
    before = {path: path.stat().st_mtime_ns for path in output.glob("evaluation/**/*.json*")}
    (output / "checkpoints/checkpoint-3").mkdir(parents=True)  # as if killed just when the adapter was there
    code, _, err = finished("run", recipe, "--output", output)
    assert (code, "Training" in err) == (0, False)
    assert not (output / "checkpoints").exists()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_record_says_what_ran_on_what(undisturbed, tiny_model):
    output, *_ = undisturbed
    record = read_json(output / "run.json")
    files = {file.name: sha256(file) for file in tiny_model.iterdir() if file.suffix == ".json"}
    assert record["inputs"]["model files"] == files
    assert {"config.json", "tokenizer.json"} <= files.keys()
    assert record["inputs"]["dtype"] == {"computed in": "float32"}
    assert record["adapter"] == {"sha256": sha256(output / "adapter")}
    start = record["starts"][0]
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    if head.returncode == 0:  # a checkout, and not an archive of one
        assert start["commit"].rstrip("+") == head.stdout.strip()
    assert start["environment"].get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS")


def test_another_tokenizer_is_another_run(undisturbed, tiny_model, recipe, tmp_path):
    output, *_ = undisturbed
    copied = shutil.copytree(output, tmp_path / "run")
    record = read_json(copied / "run.json")
    record["inputs"]["model files"]["tokenizer.json"] = "0"
    (copied / "run.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"holds another run: input.model files.tokenizer.json is '0' there"):
        run(load_recipe(recipe), copied)


def test_verdicts_that_were_made_elsewhere_are_what_is_scored(undisturbed, recipe, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(undisturbed[0], output)
    measurement = RunDirectory(output).measurement("basics-python", "base", "greedy")
    rows = list(read_jsonl(measurement.verdicts))
    write_jsonl(measurement.verdicts, [{**row, "verdict": "passed", "passed": True} for row in rows])
    code, _, err = finished("run", recipe, "--output", output)
    assert code == 0, err
    assert read_json(measurement.scores)["pass@1"]["value"] == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("adapter.targets=[nonsense]", r"adapter.targets = \['nonsense'\] does not fit this model"),
        ("adapter.peft={foo: 1}", "foo"),
        ("training.report_to=[nonsense]", "training.report_to = nonsense"),
        ("training.epochs=.inf", "training.epochs = inf: expected a finite number"),
        ("adapter.alpha=.nan", "adapter.alpha = nan: expected a finite number"),
        ("execution.limits.cpu_seconds=.inf", "execution.limits.cpu_seconds = inf: expected a finite number"),
    ],
)
def test_what_training_would_refuse_is_refused_before_anything_is_measured(recipe, tmp_path, override, message):
    with pytest.raises(FlextuneError, match=message):
        run(load_recipe(recipe, [override]), tmp_path)
    assert not list(tmp_path.rglob("completions*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eos_token": None}, "the tokenizer has no end-of-text token"),
        ({}, "ACCELERATE_MIXED_PRECISION = 'bf16'"),
    ],
)
def test_what_no_training_can_learn_is_refused_before_anything_is_measured(
    recipe, tiny_model, tmp_path, monkeypatch, change, message
):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    settings = read_json(folder / "tokenizer_config.json") | change
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if not change:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(FlextuneError, match=message):
        run(load_recipe(recipe, [f"model={folder}"]), tmp_path / "run")
    assert not list(tmp_path.glob("run/evaluation/*/*/*/completions*"))


def test_an_error_lets_go_of_the_processes_that_write(recipe, tiny_model, tmp_path, monkeypatch):
    def fails(*args, **_):
        (engine,) = (value for value in args if isinstance(value, Engine))
        engine._pool = ThreadPoolExecutor(1)
        assert engine._pool.submit(int, "1").result() == 1
        pools.append(engine._pool)
        raise FlextuneError("the judge broke")

    pools = []
    monkeypatch.setattr(pipeline, "_write", fails)
    with pytest.raises(FlextuneError, match="the judge broke"):
        run(load_recipe(recipe), tmp_path / "run")
    with pytest.raises(FlextuneError, match="the judge broke"):
        pipeline.generate_only(str(tiny_model), "basics-python", tmp_path / "one", decoding={}, generation={})
    assert len(pools) == 2
    for pool in pools:
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(int, "1")


def whole_checkpoint(output):
    return any((output / "checkpoints").glob("checkpoint-*/.whole"))


def some_completions(output):
    return any(output.glob("evaluation/*/unmerged/*/completions.partial.jsonl"))


def some_verdicts(output):
    return any(output.glob("evaluation/basics-java/*/*/verdicts.partial.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("moment", [whole_checkpoint, some_completions, some_verdicts])
def test_killed_and_called_again_it_ends_the_same(undisturbed, recipe, tmp_path, moment):
    output = tmp_path / "run"
    process = flextune("run", recipe, "--output", output)
    for _ in range(30000):
        if moment(output):
            break
        assert process.poll() is None, "it ended before the moment came"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (output / "comparison.json").exists()
    code, _, err = finished("run", recipe, "--output", output)
    assert code == 0, err
    assert ("Going on with training after step" in err) == (moment is whole_checkpoint)
    assert everything_that_counts(output) == everything_that_counts(undisturbed[0])
    assert len(read_json(output / "run.json")["starts"]) == 2


@pytest.mark.slow
def test_the_stages_one_by_one_find_the_same(undisturbed, tiny_model, tmp_path):
    whole, *_ = undisturbed
    folder = tmp_path / "java"
    code, _, err = finished(
        *("generate", "--model", tiny_model, "--adapter", whole / "adapter", "--benchmark", "basics-java"),
        *("--output", folder, "--limit", 4, "--max-new-tokens", 12, "--batch-size", 1, "--dtype", "float32"),
    )
    assert code == 0, err
    code, out, err = finished("execute", folder / "completions.jsonl", "--benchmark", "basics-java")
    assert code == 0, err
    assert "of 4 passed" in out
    code, out, err = finished("score", folder)
    assert code == 0, err
    same = whole / "evaluation/basics-java/unmerged/greedy"
    assert (folder / "completions.jsonl").read_bytes() == (same / "completions.jsonl").read_bytes()
    one, two = read_json(folder / "scores.json"), read_json(same / "scores.json")
    assert (one["pass@1"], one["verdicts"], one["not_code"]) == (two["pass@1"], two["verdicts"], two["not_code"])
    code, out, err = finished("compare", same, folder)
    assert code == 0, err
    assert "+0.0 points" in out


@pytest.mark.slow
def test_evaluate_measures_an_adapter(undisturbed, tiny_model, tmp_path):
    code, out, err = finished(
        *("evaluate", tiny_model, "--benchmark", "basics-python", "--adapter", undisturbed[0] / "adapter"),
        *("--limit", 3, "--max-new-tokens", 8, "--output", tmp_path / "run"),
    )
    assert code == 0, err
    scores = read_json(tmp_path / "run/evaluation/basics-python/unmerged/greedy/scores.json")
    assert (scores["problems"], scores["samples"]) == (3, 3)
    assert f"{scores['verdicts'].get('passed', 0)} of 3" in out


@pytest.mark.slow
def test_a_weaker_adapter_is_what_is_measured(undisturbed, tiny_model, tmp_path):
    def texts(scale):
        recipe = {
            "model": str(tiny_model),
            "dtype": "float32",
            "evaluation": {
                "adapter": str(undisturbed[0]),
                "scale": scale,
                "benchmarks": ["basics-python"],
                "limit": 4,
                "variants": ["base", "unmerged"],
            },
            "generation": {"max_new_tokens": 12},
        }
        done = run(parse_recipe(recipe, "recipe"), tmp_path / str(scale))
        measured = [done.measurement("basics-python", variant, "greedy") for variant in ("base", "unmerged")]
        return [[row["completion"] for row in read_jsonl(found.completions)] for found in measured]

    base, tuned = texts(1.0)
    assert tuned != base
    base, tuned = texts(1e-6)
    assert tuned == base


def test_problems_are_not_learned_and_then_measured(tiny_model, data, tmp_path):
    recipe = tmp_path / "leak.yaml"
    recipe.write_text(
        json.dumps(
            {
                "model": str(tiny_model),
                "data": str(data),
                "training": {"dataset": "mbpp"},
                "evaluation": {"benchmarks": ["mbpp-java"]},
            }
        )
    )
    code, _, err = finished("run", recipe, "--output", tmp_path / "run")
    assert code == 2
    assert "1 examples of mbpp are problems of mbpp-java, such as MBPP/603 and mbpp_603_get_ludic" in err
    assert "training.overlap=drop" in err
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_benchmark_that_is_not_measured_is_left_out_of_training_all_the_same(tiny_model, data, tmp_path, monkeypatch):
    monkeypatch.setattr("flextune.pipeline.prepare", lambda *_: pytest.fail("nothing will be judged"))
    recipe = Recipe(
        model=str(tiny_model),
        dtype="float32",
        data=str(data),
        training=Training(dataset="mbpp", overlap="drop", epochs=1),
        evaluation={"benchmarks": ["mbpp-java"], "variants": []},
    )
    directory = run(recipe, tmp_path / "run")
    assert directory.adapter.exists()
    assert read_json(directory.provenance)["inputs"]["training set mbpp"]["dropped"] == 1
    assert not directory.measurement("mbpp-java", "unmerged", "greedy").completions.exists()
    assert (directory.report / "index.html").exists()


def test_a_validation_set_by_name_is_checked_for_overlaps_too(data):
    recipe = Recipe(
        model="m",
        data=str(data),
        training=Training(dataset="basics", validation="mbpp"),
        evaluation={"benchmarks": ["mbpp-java"]},
    )
    with pytest.raises(UsageError, match="of mbpp are problems of mbpp-java"):
        load_data(recipe)


def test_only_the_problems_that_are_named_are_asked_and_no_more_than_the_limit(data):
    asked = {"benchmarks": ["humaneval", "humaneval-x-java"], "only": ["HumanEval/0", "HumanEval/1", "Java/53"]}

    def names(**more):
        found = load_data(Recipe(model="m", data=str(data), evaluation={**asked, **more})).benchmarks
        return [[problem.task_id for problem in benchmark.problems] for benchmark in found]

    assert names() == [["HumanEval/0", "HumanEval/1"], ["Java/0", "Java/53"]]
    assert names(without=["HumanEval/0"]) == [["HumanEval/1"], ["Java/53"]]
    assert names(limit=1) == [["HumanEval/0"], ["Java/0"]]


def test_a_trained_model_makes_room_for_the_next(recipe, tmp_path, monkeypatch):
    trained, add = [], stage.add_adapter

    def kept_in_view(base, adapter):
        model = add(base, adapter)
        trained.append(weakref.ref(model))
        return model

    monkeypatch.setattr(stage, "add_adapter", kept_in_view)
    gc.disable()  # which may not come along in time: memory of a GPU is none that it counts
    try:
        train_only(load_recipe(recipe, ["training.limit=4", "training.epochs=1"]), tmp_path)
    finally:
        gc.enable()
    assert [model() for model in trained] == [None]


def test_several_processes_only_train(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"several processes can only train: start them with `-m flextune train`"):
        run(Recipe(model="m", training=Training()), tmp_path / "run")


def test_what_was_merged_below_an_adapter_belongs_to_it(tiny_model, tmp_path):
    def trained(name, first):
        save_adapter(tiny_model, tmp_path / name / "adapter")
        (tmp_path / name / "recipe.yaml").write_text(f"model: m\nmerge_first: {first or 'null'}\n")
        return str(tmp_path / name)

    one = trained("one", None)
    two = trained("two", one)

    def find(**keys):
        return find_inputs(
            Recipe(model=str(tiny_model), **{"evaluation": {"benchmarks": ["basics-python"]}} | keys)
        ).source

    assert [path.parent.name for path in find(merge_first=two).adapters] == ["one", "two"]
    on_two = {"evaluation": {"benchmarks": ["basics-python"], "adapter": two}}
    assert len(find(merge_first=one, **on_two).adapters) == 1
    with pytest.raises(
        UsageError, match=r"evaluation.adapter = .* other adapters merged in \(.*one/adapter\) .* \(none\)"
    ):
        find(**on_two)


def test_another_number_of_processes_is_another_training(tiny_model, tmp_path, monkeypatch):
    recipe = Recipe(model=str(tiny_model), training=Training(limit=4), evaluation={"benchmarks": []})
    directory = RunDirectory(tmp_path / "run")
    _begin(recipe, directory, measure=False)
    directory.checkpoints.mkdir()
    _begin(recipe, directory, measure=False)
    assert directory.checkpoints.exists()
    monkeypatch.setenv("WORLD_SIZE", "4")
    _begin(recipe, directory, measure=False)
    assert not directory.checkpoints.exists()  # it starts anew
    directory.adapter.mkdir()
    monkeypatch.undo()
    _begin(recipe, directory, measure=False)  # measuring what was trained needs one process only


@pytest.mark.parametrize("key", ["evaluation.adapter", "merge_first", "adapter.start"])
def test_an_adapter_with_a_new_card_is_the_same_adapter(tiny_model, tmp_path, key):
    used = make_run(tmp_path / "used", ("base",))
    save_adapter(tiny_model, used.adapter)
    content = {"model": str(tiny_model), "evaluation": {"benchmarks": ["basics-python"]}}
    if key == "adapter.start":
        content |= {"training": {"limit": 4}, "adapter": {"start": str(used.path)}}
    elif key == "merge_first":
        content["merge_first"] = str(used.path)
    else:
        content["evaluation"]["adapter"] = str(used.path)
    recipe, directory = parse_recipe(content, "recipe"), RunDirectory(tmp_path / "run")
    _begin(recipe, directory, measure=False)
    assert write_card(used.path) is not None
    directory.adapter.mkdir()  # what it depends on must not change any more
    _begin(recipe, directory, measure=False)
    save_adapter(tiny_model, used.adapter, seed=1)
    with pytest.raises(UsageError, match=r"holds another run: input\.adapter.*sha256 is"):
        _begin(recipe, directory, measure=False)
