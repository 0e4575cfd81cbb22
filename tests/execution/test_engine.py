import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from flextune.errors import FlextuneError, UsageError
from flextune.execution import Execution, Program, execute, judge_completions
from flextune.execution import engine as engine_module
from flextune.execution.formats import read_programs
from flextune.execution.judge import Finding
from flextune.execution.toolchain import find_tool
from flextune.files import read_json, read_jsonl
from flextune.tasks import Problem, load_benchmark

PROBLEMS = [Problem(f"t/{n}", "python", "def f(x):\n", "assert f(1) == 2\n") for n in range(12)]
RIGHT, WRONG = "    return x + 1\n", "    return x\n"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_completions_become_verdicts(tmp_path):
    rows = [
        {"task_id": f"t/{n}", "sample": s, "completion": RIGHT if n < 2 else WRONG} for n in (2, 0, 1) for s in (0, 1)
    ]
    path = write(tmp_path / "completions.jsonl", rows)
    judge_completions(path, PROBLEMS, tmp_path, Execution())
    verdicts = list(read_jsonl(tmp_path / "verdicts.jsonl"))
    assert [(v["task_id"], v["sample"]) for v in verdicts] == [(r["task_id"], r["sample"]) for r in rows]
    assert [v["passed"] for v in verdicts] == [False, False, True, True, True, True]
    assert set(verdicts[0]) == {"task_id", "sample", "verdict", "passed", "seconds", "detail"}
    about = read_json(tmp_path / "execution.json")
    assert about["sandbox"] == "bubblewrap"
    assert about["toolchains"]["python"].startswith("Python 3")
    assert about["limits"]["cpu_seconds"] == 5


def test_other_completions_are_not_taken_for_judged(tmp_path):
    path = write(tmp_path / "completions.jsonl", [{"task_id": "t/0", "completion": RIGHT}])
    judge_completions(path, PROBLEMS, tmp_path, Execution())
    judge_completions(path, PROBLEMS, tmp_path, Execution(workers=1))
    with pytest.raises(UsageError, match=r"limits\.cpu_seconds is 5\.0 there, 9\.0 here"):
        judge_completions(path, PROBLEMS, tmp_path, Execution(limits={"cpu_seconds": 9}))
    write(path, [{"task_id": "t/0", "completion": WRONG}])
    with pytest.raises(UsageError, match="completions is '"):
        judge_completions(path, PROBLEMS, tmp_path, Execution())


def test_a_name_and_no_sample_numbers_are_enough(tmp_path):
    path = write(tmp_path / "c.jsonl", [{"name": "t/0", "completion": RIGHT}, {"name": "t/0", "completion": WRONG}])
    assert [(p.task_id, p.sample) for p in read_programs(path, PROBLEMS)] == [("t/0", 0), ("t/0", 1)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"task_id": "t/99", "completion": "x"}, "row 2: 't/99' is not a problem of the benchmark"),
        ({"task_id": "t/0", "sample": 0, "completion": "x"}, "row 2: sample 0 of t/0 stands in row 1"),
        ({"task_id": "t/1", "completion": None}, "row 2: completion = None; expected a text"),
        ({"task_id": "t/1"}, "line 2: the key 'completion' is missing"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_judged(tmp_path, row, message):
    path = write(tmp_path / "completions.jsonl", [{"task_id": "t/0", "completion": RIGHT}, row])
    with pytest.raises(FlextuneError, match=message):
        judge_completions(path, PROBLEMS, tmp_path, Execution())
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_and_no_rows(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_programs(tmp_path / "none.jsonl", PROBLEMS)
    with pytest.raises(FlextuneError, match="holds no completion"):
        read_programs(write(tmp_path / "empty.jsonl", []), PROBLEMS)


def test_an_interrupted_stage_stops_at_once_and_judges_only_the_rest(tmp_path, monkeypatch):
    rows = [{"task_id": problem.task_id, "completion": f"{RIGHT}# {problem.task_id}"} for problem in PROBLEMS]
    path = write(tmp_path / "completions.jsonl", rows)
    judged = []
    judge = engine_module.judge

    def failing(program, layer, limits):
        judged.append(program.task_id)
        if len(judged) == 3:
            raise FlextuneError("the sandbox failed")
        return judge(program, layer, limits)

    monkeypatch.setattr(engine_module, "judge", failing)
    with pytest.raises(FlextuneError, match="the sandbox failed"):
        judge_completions(path, PROBLEMS, tmp_path, Execution(workers=1))
    assert not (tmp_path / "verdicts.jsonl").exists()
    tried = len(judged)
    assert tried < 8
    kept = [row["task_id"] for row in read_jsonl(tmp_path / "verdicts.partial.jsonl")]
    assert len(kept) == 2
    judge_completions(path, PROBLEMS, tmp_path, Execution(workers=1))
    assert sorted(judged[tried:]) == sorted({problem.task_id for problem in PROBLEMS} - set(kept))
    assert sum(row["passed"] for row in read_jsonl(tmp_path / "verdicts.jsonl")) == len(PROBLEMS)


def test_identical_programs_run_once(tmp_path, monkeypatch):
    calls = []
    judge = engine_module.judge
    monkeypatch.setattr(engine_module, "judge", lambda *a: calls.append(a) or judge(*a))
    path = write(tmp_path / "c.jsonl", [{"task_id": "t/0", "sample": s, "completion": RIGHT} for s in range(5)])
    assert [v.sample for v in execute(read_programs(path, PROBLEMS))] == [0, 1, 2, 3, 4]
    assert len(calls) == 1


def test_programs_that_differ_only_in_their_tests_are_two(tmp_path):
    one, two = (Program("t", 0, "python", "def f(x):\n", RIGHT, f"assert f(1) == {n}\n") for n in (2, 3))
    assert [found.verdict for found in execute([one, two, one])] == ["passed", "wrong_answer", "passed"]


def test_mended_tests_are_not_taken_for_judged(tmp_path):
    path = write(tmp_path / "completions.jsonl", [{"task_id": "t/0", "completion": RIGHT}])
    judge_completions(path, PROBLEMS[:1], tmp_path, Execution())
    with pytest.raises(UsageError, match="problems is '"):
        judge_completions(path, [replace(PROBLEMS[0], tests="assert f(2) == 3\n")], tmp_path, Execution())


def doubtful_once(judge, seen):
    """The first look at each program finds it stopped by the clock."""
    before = set(threading.enumerate())  # other tests leave some, which end at any time

    def look(program, room, session):
        found = judge(program, room, session)
        seen.append((program.task_id, len(set(threading.enumerate()) - before)))
        if sum(task_id == program.task_id for task_id, _ in seen) > 1:
            return found
        return Finding(replace(found.verdict, verdict="timeout"), doubtful=True)

    return look


def test_what_the_clock_stopped_is_judged_again_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(engine_module, "judge", doubtful_once(engine_module.judge, seen))
    programs = [Program(f"t/{n}", 0, "python", "def f(x):\n", f"{RIGHT}# {n}", "assert f(1) == 2\n") for n in range(6)]
    assert [found.verdict for found in execute(programs, Execution(workers=2))] == ["passed"] * 6
    assert sorted(task_id for task_id, _ in seen) == sorted(2 * [program.task_id for program in programs])
    again = [threads for _, threads in seen[6:]]
    assert len(set(again)) == 1
    assert again[0] <= min(threads for _, threads in seen[:6])


@pytest.mark.parametrize(
    ("body", "limits", "detail", "times"),
    [
        ("    import time; time.sleep(120)\n", {"cpu_seconds": 60, "wall_seconds": 3}, "3 seconds by the clock", 2),
        # the busy program has the time that it needs from its neighbours to use this much of the processor
        ("    while True: pass\n", {"cpu_seconds": 0.5, "wall_seconds": 300}, "0.5 seconds of processor time", 1),
    ],
    ids=["sleeper", "busy"],
)
def test_a_sleeper_is_judged_twice_and_a_busy_one_once(monkeypatch, body, limits, detail, times):
    calls = []
    judge = engine_module.judge
    monkeypatch.setattr(engine_module, "judge", lambda *arguments: calls.append(arguments) or judge(*arguments))
    (found,) = execute([Program("t", 0, "python", "def f(x):\n", body, "f(1)\n")], Execution(limits=limits))
    assert (found.verdict, found.detail) == ("timeout", detail)
    assert len(calls) == times


def test_time_counts_over_all_processes():
    """Four children of half a second each: none is over the limit, together they are."""
    body = (
        "    import os, time\n    for _ in range(4):\n        if os.fork() == 0:\n"
        "            while time.process_time() < 0.6: pass\n            os._exit(0)\n"
        "    while True:\n        try: os.wait()\n        except ChildProcessError: break\n    return x + 1\n"
    )
    program = Program("t", 0, "python", "def f(x):\n", body, "assert f(1) == 2\n")
    (found,) = execute([program], Execution(limits={"cpu_seconds": 1.5, "wall_seconds": 300}))
    assert (found.verdict, found.detail) == ("timeout", "1.5 seconds of processor time")
    assert execute([program], Execution(limits={"cpu_seconds": 60, "wall_seconds": 300}))[0].verdict == "passed"


PUBLISHED = [
    ("humaneval", "humaneval/qwen2.5-coder-1.5b-base", 72, {}),
    ("humaneval-js", "multipl-e/qwen2.5-coder-1.5b-base.js", 77, {}),
    ("humaneval-java", "multipl-e/qwen2.5-coder-1.5b-base.java", 61, {}),
    # str_split("") is an empty array since PHP 8.2; published with an older one
    ("humaneval-php", "multipl-e/qwen2.5-coder-1.5b-base.php", 71, {"HumanEval_16_count_distinct_characters"}),
    # they call bc, which was not there when these were published
    ("humaneval-sh", "multipl-e/qwen2.5-coder-1.5b-base.sh", 35, {"HumanEval_92_any_int", "HumanEval_47_median"}),
    pytest.param("humaneval-cpp", "multipl-e/qwen2.5-coder-1.5b-base.cpp", 69, {}, marks=pytest.mark.slow),
    pytest.param("humaneval-ts", "multipl-e/qwen2.5-coder-1.5b-base.ts", 76, {}, marks=pytest.mark.slow),
]
SLOW_COMPILERS = {"cpp": 4, "typescript": 16}
"""Languages of which one in so many programs is judged here; of all of them, all agree."""


def differing(full_data, name, file, **settings):
    """The problems whose verdict is not the published one, and how many passed in what was published."""
    problems = load_benchmark(name, full_data).problems
    language = problems[0].language
    if find_tool(language) is None or (language == "bash" and shutil.which("bc") is None):
        pytest.skip(f"no toolchain for {language}")
    programs = read_programs(full_data / "completions" / f"{file}.jsonl", problems)
    programs = programs[:: SLOW_COMPILERS.get(language, 1)]
    verdicts = execute(programs, Execution(**settings))
    published = {
        row.get("task_id", row.get("name")): row.get("passed", row.get("base_status") == "pass")
        for row in read_jsonl(full_data / "verdicts" / f"{file}.jsonl")
    }
    assert len(verdicts) == len(programs)
    return {v.task_id for v in verdicts if (v.verdict == "passed") != published[v.task_id]}, sum(published.values())


@pytest.mark.parametrize(("name", "file", "passed", "explained"), PUBLISHED)
def test_published_verdicts(full_data, name, file, passed, explained):
    assert differing(full_data, name, file) == (set(explained), passed)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file", "passed", "explained"), [PUBLISHED[0], PUBLISHED[2]])
def test_published_verdicts_on_a_busy_machine(full_data, name, file, passed, explained):
    """Every processor is kept busy by something else, and the other layer judges."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        assert differing(full_data, name, file, sandbox="native") == (set(explained), passed)
    finally:
        for process in busy:
            process.kill()
            process.wait()
