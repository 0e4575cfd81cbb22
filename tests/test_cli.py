"""Wrong input: one sentence that names the place, the right exit code, and nothing that counts as done."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest


@pytest.fixture
def recipe(tmp_path, tiny_model):
    path = tmp_path / "recipe.yaml"
    content = {
        "model": str(tiny_model),
        "training": {"limit": 4, "epochs": 1},
        "evaluation": {"benchmarks": ["basics-python"], "limit": 2},
        "generation": {"max_new_tokens": 4},
    }
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["training.epoch=2"], 2, "training.epoch is not a key of a recipe; did you mean epochs?"),
        (["model=nowhere/at/all"], 1, "the model 'nowhere/at/all' is not there: expected a folder"),
        (["model=someone/some-model"], 1, "the Hub cannot be reached and nothing is cached; download it where"),
        (["training.dataset=none.jsonl"], 2, "the data file none.jsonl does not exist"),
        (["training.dataset=nothing"], 2, "'nothing' is not a training set; there are basics, mbpp"),
        (["evaluation.benchmarks=[nothing]"], 2, "'nothing' is not a benchmark; there are basics-python"),
        (["data=/nowhere", "evaluation.benchmarks=[mbpp]"], 1, "the data folder /nowhere does not exist"),
        (["adapter.targets=[no_such_proj]"], 1, "adapter.targets = ['no_such_proj'] does not fit this model"),
        (["training.max_length=8"], 1, "no example of at most training.max_length = 8 tokens"),
        (["generation.max_new_tokens=5000"], 1, "exceed the model's context of 1024; lower generation.max_new_tokens"),
        (["execution.sandbox=none"], 2, "agree with execution.allow_unsandboxed=true"),
    ],
)
def test_what_is_wrong_is_one_sentence(call, recipe, tmp_path, overrides, code, message):
    output = tmp_path / "run"
    found, _, err = call("run", recipe, *overrides, "--output", output)
    assert found == code, err
    assert message in err
    assert "Traceback" not in err
    assert not (output / "adapter").exists()
    assert not list(output.glob("evaluation/*/unmerged"))


def test_training_needs_no_sandbox(call, recipe, tmp_path, monkeypatch):
    from flextune.execution import sandbox

    monkeypatch.setattr(sandbox, "problem", lambda name: "it is not installed")
    code, _, err = call("run", recipe, "--output", tmp_path / "run")
    assert (code, "there is no sandbox" in err) == (1, True)
    code, _, err = call("train", recipe, "--output", tmp_path / "run")
    assert code == 0, err
    assert (tmp_path / "run/adapter/adapter_config.json").exists()


def test_evaluate_says_what_is_wrong(call, tiny_model, tmp_path):
    command = ["evaluate", tiny_model, "--output", tmp_path / "run", "--benchmark", "basics-python"]
    for more, message in (
        (["--limit", 0], "evaluate: evaluation.limit = 0: expected greater than or equal to 1"),
        (["--max-new-tokens", 0], "generation.max_new_tokens = 0"),
        (["--benchmark", "basics-python"], "expected each once"),
    ):
        code, _, err = call(*command, *more)
        assert (code, message in err) == (2, True), err


def test_a_model_cut_short(call, recipe, tiny_model, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    code, _, err = call("run", recipe, f"model={broken}", "--output", tmp_path / "run")
    assert (code, f"{weights} cannot be read" in err) == (1, True), err


def test_an_empty_and_a_broken_training_file(call, recipe, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("")
    code, _, err = call("run", recipe, f"training.dataset={path}", "--output", tmp_path / "run")
    assert (code, f"{path} is empty" in err) == (1, True)
    path.write_text('{"prompt": "a", "completion": "b"}\n' * 6 + '{"prompt": "a"\n')
    code, _, err = call("run", recipe, f"training.dataset={path}", "--output", tmp_path / "run")
    assert (code, f"{path}, line 7: not valid JSON" in err) == (1, True)


def test_a_full_disk(call, recipe, tmp_path, monkeypatch):
    from flextune import files

    synced = files.os.fsync
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        code, _, err = call("run", recipe, "--output", tmp_path / "run")
    assert (code, "No space left on device" in err) == (1, True)
    assert not list(tmp_path.glob("run/evaluation/*/*/*/scores.json"))
    code, _, err = call("run", recipe, "--output", tmp_path / "run")
    assert code == 0, err


def test_no_room_for_the_weights(call, recipe, tmp_path, monkeypatch):
    import peft.peft_model
    from safetensors import SafetensorError

    saved = []
    save = peft.peft_model.safe_save_file

    def full(tensors, path, **options):
        saved.append(path)
        if len(saved) > 1:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        save(tensors, path, **options)

    arguments = ["run", recipe, "training.checkpoint_steps=1", "training.epochs=2", "--output", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr(peft.peft_model, "safe_save_file", full)
        code, _, err = call(*arguments)
    assert (code, "for the weights of step 2; checkpoint-1 is kept: make room" in err) == (1, True), err
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-1"]
    code, _, err = call(*arguments)
    assert (code, "Going on with training after step 1 of 2" in err) == (0, True), err


def test_completions_made_otherwise_are_not_taken(call, tiny_model, tmp_path):
    command = ["generate", "--model", tiny_model, "--benchmark", "basics-python", "--output", tmp_path, "--limit", 1]
    assert call(*command, "--max-new-tokens", 2)[0] == 0
    assert call(*command, "--max-new-tokens", 2)[0] == 0
    code, _, err = call(*command, "--max-new-tokens", 3)
    assert (code, "generation.max_new_tokens is 2 there, 3 here" in err) == (2, True)
    code, _, err = call(*command, "--temperature", 0.5)
    assert (code, "temperature has no effect with kind: greedy" in err) == (2, True)
    code, _, err = call(*command, "--adapter", tmp_path)
    assert (code, "is neither a PEFT adapter nor a run" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", 0.5], "temperature has no effect with kind: greedy; set kind: sampling or beam-sampling"),
        (["--beams", 4], "beams has no effect with kind: greedy; set kind: beam or beam-sampling"),
        (["--decoding", "beam"], "beams is missing: kind: beam needs it, such as beams: 4"),
        (["--samples", 3], "samples: greedy gives one completion of a problem; set kind: sampling"),
        (["--decoding", "sampling", "--self-tests", 5], "self_tests has no effect on one sample"),
        (["--server", "http://localhost:1/v1"], "with backend: transformers: a server's address goes with backend"),
        (["--backend", "openai"], "server = None with backend: openai"),
        (["--batch-size", 0], "generation: batch_size = 0: expected greater than or equal to 1"),
        (["--merged"], "--merged needs --adapter"),
    ],
    ids=str,
)
def test_decodings_and_settings_that_go_against_each_other(call, tiny_model, tmp_path, arguments, message):
    output = tmp_path / "out"
    code, _, err = call(
        "generate", "--model", tiny_model, "--benchmark", "basics-python", "--output", output, *arguments
    )
    assert (code, message in err) == (2, True), err
    assert not output.exists()


def test_every_option_of_generate_arrives(call, tiny_model, tmp_path):
    from flextune.files import read_json

    options = ["--decoding", "beam-sampling", "--temperature", 0.5, "--top-p", 0.9, "--top-k", 5, "--beams", 2]
    options += ["--length-penalty", 0.5, "--max-new-tokens", 3, "--batch-size", 6, "--chain-of-thought"]
    options += ["--strip-prompt", "--workers", 1, "--dtype", "float32", "--seed", 7, "--limit", 1]
    code, _, err = call(
        "generate", "--model", tiny_model, "--benchmark", "basics-python", "--output", tmp_path, *options
    )
    assert code == 0, err
    about = read_json(tmp_path / "generation.json")
    expected = {"kind": "beam-sampling", "temperature": 0.5, "top_p": 0.9, "top_k": 5, "beams": 2}
    assert {k: v for k, v in about["decoding"].items() if v is not None} == {
        **expected,
        "length_penalty": 0.5,
        "samples": 1,
    }
    assert {k: v for k, v in about["generation"].items() if v} == {
        "max_new_tokens": 3,
        "concurrency": 64,
        "batch_size": 6,
        "backend": "transformers",
        "chain_of_thought": True,
        "strip_prompt": True,
    }
    assert (about["dtype"], about["seed"]) == ("float32", 7)
    (row,) = map(json.loads, (tmp_path / "completions.jsonl").read_text().splitlines())
    assert row["completion"].startswith("\n    # Plan, step by step:\n    # 1.")


def test_a_folder_that_cannot_be_written(call, recipe, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = call("run", recipe, "--output", tmp_path / "file" / "run")
    assert (code, "cannot be made: Not a directory" in err) == (1, True)


@pytest.mark.parametrize("arguments", [["rnu"], ["run"], ["run", "x.yaml", "--outptu", "y"], ["data", "show"]])
def test_used_wrongly(call, arguments):
    code, _, err = call(*arguments)
    assert code == 2
    assert "flextune: " in err


def test_help_data_recipe_and_doctor(call):
    assert "Measure a model on benchmarks" in call("--help")[1]
    assert "training.learning_rate" in call("recipe")[1]
    assert "humaneval-java" in call("data", "list")[1]
    assert "def eggs_in_boxes(boxes: int) -> int:" in call("data", "show", "basics-python")[1]
    assert "assert(" in call("data", "show", "basics-java", "--number", 2)[1]
    assert "basics-train/" in call("data", "show", "basics", "--training")[1]
    assert "0 of 128 examples are among the 48 problems" in call("data", "overlap", "basics", "basics-python")[1]
    code, out, _ = call("doctor")
    assert code == 0
    assert "bubblewrap" in out


AS_IT_IS = "x[lora]y[/lora] [bold]:smile:"
"""A path that rich would print differently: the middle would vanish, `[/lora]` be an error, the end a face."""


def test_a_path_is_printed_as_it_is(call, recipe, tiny_model, tmp_path):
    folder = tmp_path / AS_IT_IS
    asked = ("--benchmark", "basics-python", "--limit", 1, "--max-new-tokens", 2)
    generate = ("generate", "--model", tiny_model, *asked, "--output", folder / "out")
    for command, last in (
        (("run", recipe, "--output", folder / "run"), f"Report: {folder}/run/report/index.html"),
        (("train", recipe, "--output", folder / "run"), f"Adapter: {folder}/run/adapter"),
        (("report", folder / "run", "--output", folder / "page"), f"Report: {folder}/page/index.html"),
        (("report", folder / "run", "--output", folder / "png", "--format", "png"), f" in {folder}/png"),
        (("spectrum", folder / "run", "--permutations", 3), f"`flextune report {folder}/run` shows the figures"),
        (
            ("spectrum", folder / "run", "--permutations", 3, "--output", folder / "s"),
            f"Numbers and figures: {folder}/s",
        ),
        (("merge", folder / "run", "--output", folder / "merged"), f"Merged: {folder}/merged"),
        (("evaluate", folder / "merged", *asked, "--output", folder / "e"), f"Report: {folder}/e/report/index.html"),
        (generate, f"Completions: {folder}/out/completions.jsonl"),
        (
            ("execute", folder / "out" / "completions.jsonl", "--benchmark", "basics-python"),
            f"Verdicts: {folder}/out/verdicts.jsonl",
        ),
    ):
        code, out, err = call(*command)
        assert code == 0, err
        assert out.endswith(f"{last}\n"), out


def test_problems_and_names_are_printed_as_they_are(call, tmp_path):
    path = tmp_path / f"{AS_IT_IS}.jsonl"
    path.parent.mkdir(parents=True)
    row = {"task_id": "mine/[/lora]:smile:", "language": "python", "tests": "assert x[/1] == ':smile:'", "stop": []}
    path.write_text(json.dumps({**row, "prompt": "def f():\n"}) + "\n")
    code, out, err = call("data", "show", path)
    assert code == 0, err
    assert row["tests"] in out
    code, _, err = call("data", "show", tmp_path / AS_IT_IS / "none.jsonl")
    assert (code, f"{tmp_path / AS_IT_IS}/none.jsonl" in err) == (2, True)


def test_keys_and_titles_are_bold_on_a_terminal():
    terminal = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm"}
    for verb, bold in ((["recipe"], "training.learning_rate"), (["data", "list"], "Benchmarks")):
        command = [sys.executable, "-m", "flextune", *verb]
        done = subprocess.run(command, env=terminal, capture_output=True, text=True, check=True)
        assert f"\x1b[1m{bold}\x1b[0m" in done.stdout


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_evaluate_runs_a_model_in_the_type_that_is_asked_for(call, tiny_model, tmp_path, dtype):
    from flextune.files import read_yaml

    command = ["evaluate", tiny_model, "--benchmark", "basics-python", "--limit", 1, "--max-new-tokens", 2]
    code, _, err = call(*command, "--output", tmp_path / "run", "--dtype", dtype)
    assert code == 0, err
    assert read_yaml(tmp_path / "run" / "recipe.yaml")["dtype"] == dtype
    code, _, err = call(*command, "--output", tmp_path / "other", "--dtype", "float64")
    assert (code, "float64" in err, (tmp_path / "other").exists()) == (2, True, False)


def test_spectrum_writes_numbers_and_figures(call, tmp_path):
    import torch
    from safetensors.torch import save_file

    adapter, output = tmp_path / "adapter", tmp_path / "out"
    code, _, err = call("spectrum", adapter, "--output", output)
    assert (code, f"{adapter} is not a folder" in err, output.exists()) == (2, True, False)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    factors = {"A": torch.randn(2, 9), "B": torch.randn(8, 2)}
    save_file(
        {f"base_model.model.layers.0.up.lora_{part}.weight": w for part, w in factors.items()},
        adapter / "adapter_model.safetensors",
    )
    code, printed, err = call("spectrum", adapter, "--output", output, "--threshold", 0.25, "--permutations", 3)
    assert code == 0, err
    assert "frequencies of 0.25 and more" in printed
    assert json.loads((output / "spectrum.json").read_text())["permutations"] == 3
    assert len(list(output.glob("*.svg"))) == 3


@pytest.fixture
def open_folder():
    """A folder that the sandbox's user reaches, which pytest's are closed to."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_says_so_and_tidies_up(tmp_path, open_folder, number, code):
    """By Ctrl-C, or as a scheduler ends a job: the folder that programs run in is gone."""
    completions = tmp_path / "completions.jsonl"
    lines = [
        {"task_id": "basics/eggs_in_boxes", "sample": sample, "completion": f"    while {sample + 1}: pass\n"}
        for sample in range(16)
    ]
    completions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    heeding = (  # SIGINT, which a process in the background of a script is born ignoring
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from flextune.cli import main; main()"
    )
    command = ["execute", completions, "--benchmark", "basics-python", "--timeout", 2]
    running = subprocess.Popen(
        [sys.executable, "-c", heeding, *map(str, command)],
        env=os.environ | {"TMPDIR": str(open_folder)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60

    def a_program_runs():
        folders = [path.name for path in open_folder.iterdir()]
        return folders and "probe" not in str(folders) and psutil.Process(running.pid).children()

    while not a_program_runs():
        assert time.monotonic() < deadline
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.05)
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, list(open_folder.iterdir())) == (code, []), err
    assert err.endswith("flextune: stopped; the same command goes on from here\n")
    assert not (tmp_path / "verdicts.jsonl").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="programs run as another user only where root runs them")
def test_a_temporary_folder_that_programs_cannot_reach_is_named(tmp_path):
    completions = tmp_path / "completions.jsonl"
    completions.write_text('{"task_id": "basics/eggs_in_boxes", "completion": "    return 1\\n"}\n')
    command = ["execute", completions, "--benchmark", "basics-python"]
    done = subprocess.run(
        [sys.executable, "-m", "flextune", *map(str, command)],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "is closed; set TMPDIR to an open folder" in done.stderr


def test_help_loads_no_heavy_library():
    check = (
        "import sys, flextune.cli, flextune.execution, flextune.scoring.score, flextune.pipeline, flextune\n"
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
