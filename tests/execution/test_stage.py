"""The command `flextune execute`: its options, the peers' formats, and what it leaves on disk."""

import gzip
import json

import pytest

from flextune import cli
from flextune.errors import FlextuneError
from flextune.execution import Execution, judge_completions
from flextune.execution import engine as engine_module
from flextune.files import read_json, read_jsonl
from flextune.tasks import Problem, load_benchmark


@pytest.fixture
def execute(capsys):
    def execute(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["execute", *(str(argument) for argument in arguments)])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return execute


EXITS = "        System.exit(0);\n        throw new RuntimeException();"
RELEASES = "        var s = 1;\n        throw new RuntimeException();"


def completions(path, body, limit=2, **row):
    rows = [{"task_id": p.task_id, "completion": body} | row for p in load_benchmark("basics-java").problems[:limit]]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_layer_and_the_limits_are_what_was_asked_for(execute, tmp_path):
    path = completions(tmp_path / "c.jsonl", EXITS)
    more = ["--sandbox", "native", "--timeout", 30, "--limit", "memory_mb=512", "--limit", "disk_mb=8", "--workers", 1]
    code, out, _ = execute(path, "--benchmark", "basics-java", *more)
    assert (code, out.splitlines()[0]) == (0, "0 of 2 passed (2 early_exit)")
    about = read_json(tmp_path / "execution.json")
    assert about["sandbox"] == "native"
    assert about["limits"] | {"cpu_seconds": 30, "wall_seconds": 90, "memory_mb": 512, "disk_mb": 8} == about["limits"]
    assert about["toolchains"]["java"].startswith("javac ")


def test_verdicts_that_are_whole_outlive_their_toolchain(execute, tmp_path, monkeypatch):
    path = completions(tmp_path / "c.jsonl", EXITS)
    assert execute(path, "--benchmark", "basics-java")[0] == 0
    before = (tmp_path / "execution.json").read_text()
    monkeypatch.setattr("flextune.execution.stage.tool_version", lambda name: "javac 99")
    assert execute(path, "--benchmark", "basics-java")[1].splitlines()[0] == "0 of 2 passed (2 early_exit)"
    assert (tmp_path / "execution.json").read_text() == before
    (tmp_path / "verdicts.jsonl").rename(tmp_path / "verdicts.partial.jsonl")  # half-done ones are not mixed
    code, _, err = execute(path, "--benchmark", "basics-java")
    assert (code, "javac 99" in err) == (2, True), err


def test_verdicts_do_not_stand_beside_other_programs(execute, tmp_path):
    path = completions(tmp_path / "one/completions.jsonl", EXITS)
    (tmp_path / "one/fixed.jsonl").write_text(path.read_text().replace("exit(0)", "exit(1)"))
    code, _, err = execute(tmp_path / "one/fixed.jsonl", "--benchmark", "basics-java")
    assert (code, "completions.jsonl holds other completions than those" in " ".join(err.split())) == (2, True)
    assert not (tmp_path / "one/verdicts.jsonl").exists()
    assert execute(tmp_path / "one/fixed.jsonl", "--benchmark", "basics-java", "--output", tmp_path / "two")[0] == 0
    assert execute(path, "--benchmark", "basics-java")[0] == 0
    problems = tmp_path / "two/problems.jsonl"
    problems.write_text(problems.read_text().replace("static", "static final"))
    (tmp_path / "two/verdicts.jsonl").unlink()
    code, _, err = execute(tmp_path / "one/fixed.jsonl", "--benchmark", "basics-java", "--output", tmp_path / "two")
    assert (code, "with other texts than the benchmark" in " ".join(err.split())) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "memory_mb"], "--limit 'memory_mb': expected key=value"),
        (["--limit", "memory=1"], "execution: limits.memory is not a key of a recipe; did you mean memory_mb?"),
        (["--limit", "memory_mb=lots"], "limits.memory_mb = 'lots': expected"),
        (["--timeout", -1], "limits.cpu_seconds = -1.0: expected greater than 0"),
        (["--release", 3], "java_release = 3: expected greater than or equal to 8"),
        (["--sandbox", "none"], "opens this machine to programs that a model wrote"),
    ],
)
def test_wrong_options_are_said(execute, tmp_path, arguments, message):
    path = completions(tmp_path / "c.jsonl", EXITS)
    code, _, err = execute(path, "--benchmark", "basics-java", *arguments)
    assert (code, message in err) == (2, True), err
    assert not (tmp_path / "verdicts.jsonl").exists()


def test_compatible_takes_exit_status_0_for_a_pass(execute, tmp_path):
    path = completions(tmp_path / "c.jsonl", EXITS, limit=1)
    assert execute(path, "--benchmark", "basics-java", "--compatible")[1].startswith("1 of 1 passed")
    (row,) = read_jsonl(tmp_path / "verdicts.jsonl")
    assert (row["verdict"], row["status"]) == ("passed", "OK")
    assert read_json(tmp_path / "execution.json")["compatible"] is True
    code, _, err = execute(path, "--benchmark", "basics-java")
    assert (code, "compatible is True there, False here" in err) == (2, True)


def test_the_release_decides_what_compiles(execute, tmp_path):
    path = completions(tmp_path / "c.jsonl", RELEASES, limit=1)
    assert "1 runtime_error" in execute(path, "--benchmark", "basics-java", "--output", tmp_path / "new")[1]
    old = execute(path, "--benchmark", "basics-java", "--release", 8, "--output", tmp_path / "old")
    assert "1 compile_error" in old[1]
    assert read_json(tmp_path / "old" / "execution.json")["java_release"] == 8
    code, _, err = execute(path, "--benchmark", "basics-java", "--release", 99, "--output", tmp_path / "none")
    assert (code, "javac says 'release version 99 not supported'" in err) == (1, True)


def test_verdicts_in_the_peers_formats(execute, tmp_path):
    path = completions(tmp_path / "samples.jsonl", EXITS)
    common = [path, "--benchmark", "basics-java", "--output", tmp_path / "out"]
    assert execute(*common, "--write", "human-eval")[0] == 0
    rows = list(read_jsonl(tmp_path / "out" / "samples.jsonl_results.jsonl"))
    assert [row["passed"] for row in rows] == [False, False]
    assert execute(*common, "--write", "multipl-e")[0] == 0
    files = sorted((tmp_path / "out").glob("*.results.json.gz"))
    assert len(files) == 2
    with gzip.open(files[0], "rt") as file:
        assert [result["status"] for result in json.load(file)["results"]] == ["Exception"]


def test_multipl_e_folders_are_judged(execute, tmp_path):
    problem = load_benchmark("basics-java").problems[0]
    folder = tmp_path / "made"
    folder.mkdir()
    content = {"name": problem.task_id, "language": "java", "prompt": problem.prompt, "tests": problem.tests}
    with gzip.open(folder / "one.json.gz", "wt") as file:
        json.dump(content | {"completions": [EXITS, "        return nothing;"], "stop_tokens": []}, file)
    code, _, err = execute(folder, "--benchmark", "basics-java", "--output", tmp_path)
    assert code == 0, err
    assert [row["verdict"] for row in read_jsonl(tmp_path / "verdicts.jsonl")] == ["early_exit", "compile_error"]


def test_what_was_judged_before_a_failure_is_kept(tmp_path, monkeypatch):
    problems = [Problem(f"t/{n}", "python", "def f(x):\n", "assert f(1) == 2\n") for n in range(9)]
    path = tmp_path / "c.jsonl"
    path.write_text(
        "".join(json.dumps({"task_id": p.task_id, "completion": f"    return 2  # {p}"}) + "\n" for p in problems)
    )
    judge = engine_module.judge
    calls = []

    def failing(program, room, session):
        calls.append(program.task_id)
        if len(calls) == 6:
            raise FlextuneError("the sandbox failed: it is gone")
        return judge(program, room, session)

    monkeypatch.setattr(engine_module, "judge", failing)
    with pytest.raises(FlextuneError, match="it is gone"):
        judge_completions(path, problems, tmp_path, Execution(workers=1))
    assert len(list(read_jsonl(tmp_path / "verdicts.partial.jsonl"))) == 5
    judge_completions(path, problems, tmp_path, Execution(workers=1))
    assert [row["passed"] for row in read_jsonl(tmp_path / "verdicts.jsonl")] == [True] * 9
    assert len(calls) == 6 + 4
