import gzip
import json
import sys
import time
from dataclasses import replace
from typing import get_args

import pytest

from flextune.errors import FlextuneError, UsageError
from flextune.execution import Program, Verdict, execute
from flextune.execution.formats import read_programs
from flextune.execution.results import MULTIPL_E_STATUS, write_human_eval, write_multipl_e
from flextune.execution.verdict import Kind
from flextune.tasks import Problem, StandardInput, load_benchmark

PROMPT = 'from typing import List\n\n\ndef f{n}(x: int) -> int:\n    """Add {n}."""\n'
PROBLEMS = [
    Problem(f"T/{n}", "python", PROMPT.format(n=n), f"assert f{n}(1) == {n + 1}\n", ("\ndef",)) for n in range(3)
]
JAVA = [
    Problem(f"J_{n}", "java", f"import x;\nclass P {{\n  int f{n}() {{\n", "    }\n}\n", ("\n    }\n",)) for n in (0, 1)
]


def body(n):
    return f"    return x + {n}\n"


def lines(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def packed(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    return path


def multipl_e(problem, completions):
    return {
        "name": problem.task_id,
        "language": problem.language,
        "temperature": 0.2,
        "prompt": problem.prompt,
        "tests": problem.tests,
        "completions": completions,
        "stop_tokens": list(problem.stop),
    }


def evalplus(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def generations(path, rows):
    path.write_text(json.dumps(rows))
    return path


def found(programs):
    return [(program.task_id, program.sample, program.prompt + program.completion) for program in programs]


@pytest.mark.parametrize("name", ["samples.jsonl", "samples.jsonl.gz", "samples.txt"])
def test_rows_without_numbers_are_samples_in_order(tmp_path, name):
    path = lines(tmp_path / name, [{"task_id": f"T/{n}", "completion": c} for n, c in [(1, "a"), (0, "b"), (1, "c")]])
    programs = read_programs(path, PROBLEMS)
    assert [(p.task_id, p.sample, p.completion) for p in programs] == [
        ("T/1", 0, "a"),
        ("T/0", 0, "b"),
        ("T/1", 1, "c"),
    ]
    assert programs[0] == Program("T/1", 0, "python", PROBLEMS[1].prompt, "a", PROBLEMS[1].tests)


def test_rows_with_a_name_and_samples(tmp_path):
    path = lines(tmp_path / "c.jsonl", [{"name": "T/0", "sample": s, "completion": str(s)} for s in (7, 3)])
    assert [(p.sample, p.completion) for p in read_programs(path, PROBLEMS)] == [(7, "7"), (3, "3")]


def test_a_solution_takes_the_place_of_the_prompt(tmp_path):
    path = lines(tmp_path / "s.jsonl", [{"task_id": "T/1", "solution": "def f1(x): return x + 1"}])
    programs = read_programs(path, PROBLEMS)
    assert (programs[0].prompt, programs[0].completion) == ("", "def f1(x): return x + 1")
    assert execute(programs)[0].verdict == "passed"


def test_the_tests_of_a_solution_find_the_helpers_of_the_prompt(tmp_path):
    prompt = 'import math\n\ndef coded(x):\n    return x + math.ceil(0.5)\n\ndef decoded(x):\n    """Undo coded."""\n'
    problem = Problem("T/0", "python", prompt, "assert decoded(coded(1)) == 1\n")
    path = lines(tmp_path / "s.jsonl", [{"task_id": "T/0", "solution": "def decoded(x):\n    return x - 1"}])
    assert execute(read_programs(path, [problem]))[0].verdict == "passed"


def test_humaneval_solutions_pass_without_the_prompts_helpers(full_data, tmp_path):
    problems = {problem.task_id: problem for problem in load_benchmark("humaneval", full_data).problems}
    rows = []
    for number in (32, 38, 50):
        problem = problems[f"HumanEval/{number}"]
        before, mark, last = problem.prompt.rpartition("\ndef ")
        helper = "import math\n" + before if number == 32 else ""  # find_zero calls poly, the others call nothing
        rows.append({"task_id": problem.task_id, "solution": helper + mark + last + problem.solution})
    found = execute(read_programs(lines(tmp_path / "s.jsonl", rows), list(problems.values())))
    assert [verdict.verdict for verdict in found] == ["passed"] * 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"task_id": "T/9", "completion": "x"}, r"row 2: 'T/9' is not a problem of the benchmark \(such as 'T/0'\)"),
        ({"task_id": "T/0", "sample": 0, "completion": "x"}, "row 2: sample 0 of T/0 stands in row 1"),
        ({"task_id": "T/1", "completion": 5}, "row 2: completion = 5; expected a text"),
        ({"task_id": "T/1", "solution": None}, "row 2: solution = None; expected a text"),
        ({"task_id": "T/1"}, r"line 2: the key 'completion' is missing \(found task_id\)"),
        ({"task_id": "T/1", "completion": "x", "solution": "x"}, "line 2: there are both `completion` and `solution`"),
        ({"task_id": "T/1", "sample": -1, "completion": "x"}, "row 2: sample = -1; expected a whole number from 0"),
        ({"task_id": "T/1", "sample": True, "completion": "x"}, "row 2: sample = True; expected a whole number"),
        ({"task_id": "T/1", "sample": "0", "completion": "x"}, "row 2: sample = '0'; expected a whole number"),
        ([], "line 2: expected a JSON object, found list"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, row, message):
    path = lines(tmp_path / "c.jsonl", [{"task_id": "T/0", "completion": "x"}, row])
    with pytest.raises(FlextuneError, match=rf"c\.jsonl, {message}"):
        read_programs(path, PROBLEMS)


ROW = b'{"task_id": "T/0", "completion": "x"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", b"", "holds no completion"),
        ("c.jsonl.gz", gzip.compress(b"\n", mtime=0), "holds no completion"),
        ("c.json", b"[]", "holds no completion"),
        ("c.json", b"[[], []]", "holds no completion"),
        ("c.jsonl", ROW + b"{\n", "line 2: not valid JSON .* column 2"),
        ("c.jsonl", ROW + b"\n" + b"1" * 5000, "line 3: not valid JSON"),
        ("c.jsonl", ROW + b"[" * 200000, "line 2: not valid JSON"),
        ("c.jsonl", ROW + b'{"task_id": "\xff"}', "line 2: not valid UTF-8"),
        ("c.jsonl.gz", gzip.compress(ROW * 99, mtime=0)[:-9], "not a whole gzip file"),
        ("c.jsonl.gz", ROW, "not a whole gzip file"),
        ("c.jsonl.gz", gzip.compress(ROW, mtime=0)[:10] + b"\xff" * 20, "not a whole gzip file"),
        ("c.json", ROW + ROW, r"line 2: not valid JSON .*rows belong into a \.jsonl file"),
        ("c.json", b'"x"', "found str; expected MultiPL-E's object"),
        ("c.json.gz", gzip.compress(b"null", mtime=0), "found NoneType; expected MultiPL-E's object"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FlextuneError, match=f"{name}.*{message}"):
        read_programs(tmp_path / name, PROBLEMS)


def test_a_path_with_nothing_there(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_programs(tmp_path / "none.jsonl", PROBLEMS)


def test_half_a_surrogate_pair_is_a_completion(tmp_path):
    (tmp_path / "c.jsonl").write_bytes(b'{"task_id": "T/0", "completion": "\\ud83d"}\n')
    programs = read_programs(tmp_path / "c.jsonl", PROBLEMS)
    write_human_eval(tmp_path / "r.jsonl", programs, [Verdict("T/0", 0, "passed", 1.0)])
    assert json.loads((tmp_path / "r.jsonl").read_text())["completion"] == "\ud83d"


def test_a_folder_of_multipl_e_is_read_in_the_order_of_the_benchmark(tmp_path):
    for problem in reversed(JAVA):
        packed(tmp_path / "run" / f"{problem.task_id}.json.gz", multipl_e(problem, ["a", "b"]))
    packed(tmp_path / "run" / "J_0.results.json.gz", {"name": "J_0", "results": []})
    programs = read_programs(tmp_path / "run", JAVA[::-1])
    assert [(p.task_id, p.sample, p.completion) for p in programs] == [
        *(("J_1", 0, "a"), ("J_1", 1, "b"), ("J_0", 0, "a"), ("J_0", 1, "b")),
    ]
    assert (programs[0].prompt, programs[0].tests) == (JAVA[1].prompt, JAVA[1].tests)


def test_one_file_of_multipl_e_with_the_bare_minimum(tmp_path):
    path = packed(tmp_path / "J_1.json.gz", {"name": "J_1", "completions": ["a"]})
    assert found(read_programs(path, JAVA)) == [("J_1", 0, JAVA[1].prompt + "a")]


@pytest.mark.parametrize(("short", "ours"), [("js", "javascript"), ("py", "python"), ("cpp", "cpp"), ("rs", "rs")])
def test_languages_by_multipl_es_names(tmp_path, short, ours):
    path = packed(tmp_path / "a.json.gz", {"name": "a", "language": short, "completions": ["x"]})
    assert read_programs(path, [Problem("a", ours, "", "")])[0].language == ours
    path = packed(tmp_path / "a.json.gz", {"name": "a", "language": ours, "completions": ["x"]})
    assert read_programs(path, [Problem("a", ours, "", "")])[0].language == ours


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "class P"}, "prompt: 'class P' is not the benchmark's for J_0; these completions answer another"),
        ({"tests": ""}, "tests: '' is not the benchmark's for J_0"),
        ({"language": "js"}, "language: 'js' is not the benchmark's for J_0"),
        ({"name": "J_7"}, "name: 'J_7' is not a problem of the benchmark"),
        ({"name": "J_1", "prompt": JAVA[1].prompt}, r"completions\[0\]: sample 0 of J_1 stands in J_1.json.gz"),
        ({"completions": "a"}, "completions: 'a'; expected a list of texts"),
        ({"completions": ["a", None]}, r"completions\[1\]: completion = None; expected a text"),
    ],
)
def test_a_wrong_file_of_multipl_e_is_named(tmp_path, change, message):
    packed(tmp_path / "run" / "J_1.json.gz", multipl_e(JAVA[1], ["a"]))
    packed(tmp_path / "run" / "J_2.json.gz", multipl_e(JAVA[0], ["a"]) | change)
    with pytest.raises(FlextuneError, match=rf"run, J_2\.json\.gz, {message}"):
        read_programs(tmp_path / "run", JAVA)


@pytest.mark.parametrize("key", ["name", "completions"])
def test_a_file_of_multipl_e_without_a_key(tmp_path, key):
    content = multipl_e(JAVA[0], ["a"])
    del content[key]
    with pytest.raises(FlextuneError, match=rf"J_0\.json\.gz, {key}: the key is missing \(found .*prompt"):
        read_programs(packed(tmp_path / "J_0.json.gz", content), JAVA)


def test_a_folder_of_evalplus(tmp_path):
    files = {"T_1/10.py": "c", "T_1/2.py": "b", "T_0/0.py": "a", "eval_results.json": "{}", "T_0/notes.txt": ""}
    programs = read_programs(evalplus(tmp_path / "run", files), PROBLEMS)
    assert found(programs) == [("T/0", 0, "a"), ("T/1", 2, "b"), ("T/1", 10, "c")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"T_9/0.py": ""}, r"run, T_9/0\.py: 'T_9' is not a problem of the benchmark"),
        ({"T_0/x.py": ""}, r"run, T_0/x\.py: the file is named 'x'; expected the number of the sample"),
        ({"T_0/0.py": "", "T_0/00.py": ""}, r"run, T_0/00\.py: sample 0 of T/0 stands in T_0/0\.py"),
        ({"T_0/0.py": "", "J_0.json.gz": ""}, r"run holds both J_0\.json\.gz \(MultiPL-E's form\) and T_0/0\.py"),
        ({"README": ""}, "run holds no completion: neither MultiPL-E's"),
    ],
)
def test_a_wrong_folder_is_named(tmp_path, files, message):
    with pytest.raises(FlextuneError, match=message):
        read_programs(evalplus(tmp_path / "run", files), PROBLEMS)


@pytest.mark.parametrize("strip", [str, str.rstrip, str.strip])
def test_generations_are_the_whole_program(tmp_path, strip):
    problems = [replace(problem, prompt="\n" + problem.prompt) for problem in PROBLEMS]
    rows = [[strip(p.prompt) + "\n" + body(n), strip(p.prompt) + "\n    return 0"] for n, p in enumerate(problems)]
    programs = read_programs(generations(tmp_path / "generations_t.json", rows), problems)
    assert found(programs) == [(p.task_id, s, rows[n][s]) for n, p in enumerate(problems) for s in (0, 1)]
    assert programs[0].prompt.strip() == problems[0].prompt.strip()
    assert [verdict.verdict for verdict in execute(programs)] == ["passed", "wrong_answer"] * 3


def test_generations_of_the_first_problems(tmp_path):
    path = generations(tmp_path / "g.json", [[PROBLEMS[0].prompt + body(0)]])
    assert [program.task_id for program in read_programs(path, PROBLEMS)] == ["T/0"]


def test_generations_of_mbpp_show_one_test_of_three(tmp_path):
    prompt = '"""\nName f.\nassert f() == {n}\n{more}"""\n'
    problems = [Problem(f"MBPP/{n}", "python", prompt.format(n=n, more="assert f()\n"), "") for n in (1, 2)]
    rows = [[prompt.format(n=n, more="") + "def f(): pass"] for n in (1, 2)]
    programs = read_programs(generations(tmp_path / "g.json", rows), problems)
    assert [(program.prompt, program.completion) for program in programs] == [("", row[0]) for row in rows]
    with pytest.raises(
        FlextuneError,
        match=r"problem \[0\] \(MBPP/1\), sample 0: it does not begin with the prompt: line 3 is 'assert f\(\) == 2'",
    ):
        read_programs(generations(tmp_path / "g.json", rows[::-1]), problems)


@pytest.mark.parametrize(
    ("problems", "rows", "message"),
    [
        (PROBLEMS, [[p.prompt] for p in [*PROBLEMS, *PROBLEMS]], "g.json holds 6 problems and the benchmark has 3"),
        (
            PROBLEMS,
            [["def f0(x): ..."]],
            r"problem \[0\] \(T/0\), sample 0: it does not begin with the prompt: line 1 is",
        ),
        (PROBLEMS, [[PROBLEMS[0].prompt], [PROBLEMS[2].prompt]], r"problem \[1\] \(T/1\), sample 0: it does not begin"),
        (JAVA, [["import x;\nclass P {\n  long f0() {\n"]], r"problem \[0\] \(J_0\), sample 0: it does not begin"),
        (PROBLEMS, [[PROBLEMS[0].prompt, None]], r"\(T/0\), sample 1: completion = None; expected a text"),
        (PROBLEMS, [PROBLEMS[0].prompt], r"problem \[0\] \(T/0\): .*; expected a list of texts"),
    ],
)
def test_wrong_generations_are_named(tmp_path, problems, rows, message):
    with pytest.raises(FlextuneError, match=message):
        read_programs(generations(tmp_path / "g.json", rows), problems)


class CountedId(str):
    """A task_id that counts how often such ids are compared."""

    comparisons = 0

    def __eq__(self, other):
        CountedId.comparisons += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def work_of_reading(path, problems, programs):
    """How many calls, and how many comparisons of ids, it takes to read so many programs."""
    calls, CountedId.comparisons = 0, 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        programs_read = read_programs(path, problems)
    finally:
        sys.setprofile(before)
    assert len(programs_read) == programs
    return calls, CountedId.comparisons


@pytest.mark.parametrize("form", ["rows", "generations", "multipl-e"])
def test_twice_the_rows_take_about_twice_the_work(tmp_path, form):
    """Work that grows with the square of the rows would be four times as much."""
    work = {}
    for count in (300, 600):
        problems = [Problem(CountedId(f"T/{n}"), "python", PROMPT.format(n=n), "") for n in range(count)]
        if form == "rows":
            path = lines(tmp_path / f"{count}.jsonl", [{"task_id": p.task_id, "completion": "x"} for p in 4 * problems])
        elif form == "generations":
            path = generations(tmp_path / f"{count}.json", [[problem.prompt] * 4 for problem in problems])
        else:
            path = tmp_path / str(count)
            for n, problem in enumerate(problems):
                packed(path / f"{n}.json.gz", multipl_e(problem, ["x"] * 4))
        work[count] = work_of_reading(path, problems, 4 * count)
    assert all(twice <= 3 * once for once, twice in zip(work[300], work[600], strict=True)), work


PROGRAMS = [Program(f"J_{n}", s, "java", JAVA[n].prompt, f"x{n}{s}", JAVA[n].tests) for n in (0, 1) for s in (1, 0)]


def verdicts(*kinds, detail="said"):
    return [
        Verdict(p.task_id, p.sample, kind, 0.5, "" if kind == "passed" else detail)
        for p, kind in zip(PROGRAMS, kinds, strict=True)
    ]


def test_human_evals_results(tmp_path):
    found = verdicts("passed", "timeout", "compile_timeout", "wrong_answer")
    write_human_eval(tmp_path / "s_results.jsonl", PROGRAMS, found[::-1])
    rows = [json.loads(line) for line in (tmp_path / "s_results.jsonl").read_text().splitlines()]
    assert rows == [
        {"task_id": "J_0", "completion": "x01", "result": "passed", "passed": True},
        {"task_id": "J_0", "completion": "x00", "result": "timed out", "passed": False},
        {"task_id": "J_1", "completion": "x11", "result": "timed out", "passed": False},
        {"task_id": "J_1", "completion": "x10", "result": "failed: said", "passed": False},
    ]


def test_a_silent_failure_is_named_by_its_verdict(tmp_path):
    write_human_eval(tmp_path / "r.jsonl", PROGRAMS[:1], verdicts(*["memory_limit"] * 4, detail=""))
    assert json.loads((tmp_path / "r.jsonl").read_text())["result"] == "failed: memory_limit"


def test_multipl_es_results(tmp_path):
    write_multipl_e(tmp_path / "run", JAVA, PROGRAMS, verdicts("passed", "timeout", "compile_error", "early_exit"))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["J_0.results.json.gz", "J_1.results.json.gz"]
    content = json.loads(gzip.decompress((tmp_path / "run" / "J_0.results.json.gz").read_bytes()))
    program = f"{JAVA[0].prompt}x00\n{JAVA[0].tests}"
    assert content["results"][0] == {
        "program": program,
        "timestamp": 0,
        "stdout": "",
        "stderr": "said",
        "exit_code": -1,
        "status": "Timeout",
    }
    assert [content["results"][1][key] for key in ("status", "exit_code", "stderr")] == ["OK", 0, ""]
    del content["results"]
    assert content == {
        "name": "J_0",
        "language": "java",
        "prompt": JAVA[0].prompt,
        "tests": JAVA[0].tests,
        "stop_tokens": ["\n    }\n"],
    }


@pytest.mark.parametrize("kind", get_args(Kind))
def test_exit_codes_of_multipl_es_results(tmp_path, kind):
    write_multipl_e(tmp_path, JAVA, PROGRAMS[:1], verdicts(*[kind] * 4))
    result = json.loads(gzip.decompress((tmp_path / "J_0.results.json.gz").read_bytes()))["results"][0]
    expected = {"OK": 0, "Timeout": -1, "SyntaxError": 1, "Exception": 1}
    assert result["exit_code"] == expected[MULTIPL_E_STATUS[kind]]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_pass_k_of_multipl_e_counts_what_we_count(tmp_path, kind):
    found = verdicts(kind, "passed", "runtime_error", kind)
    write_multipl_e(tmp_path, JAVA, PROGRAMS, found)
    estimates = []
    for path in tmp_path.glob("*.results.json.gz"):
        with gzip.open(path, "rt") as file:
            results = json.load(file)["results"]
        estimates.append(sum(r["status"] == "OK" and r["exit_code"] == 0 for r in results) / len(results))
    assert sum(estimates) / len(estimates) == sum(verdict.verdict == "passed" for verdict in found) / 4


def test_every_verdict_has_a_word_of_multipl_es():
    assert list(MULTIPL_E_STATUS) == list(get_args(Kind))
    assert set(MULTIPL_E_STATUS.values()) == {"OK", "SyntaxError", "Timeout", "Exception"}


def test_equal_verdicts_make_equal_bytes(tmp_path, monkeypatch):
    for name, clock in (("a", 1e9), ("b", 2e9)):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        write_multipl_e(tmp_path / name, JAVA, PROGRAMS, verdicts(*["passed"] * 4))
    first, second = ([path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in "ab")
    assert first == second


def test_multipl_es_names_of_languages_and_files(tmp_path):
    problem = Problem("HumanEval/0", "javascript", "", "")
    program = Program("HumanEval/0", 0, "javascript", "", "", "")
    write_multipl_e(tmp_path, [problem], [program], [Verdict("HumanEval/0", 0, "passed", 1.0)])
    content = json.loads(gzip.decompress((tmp_path / "HumanEval_0.results.json.gz").read_bytes()))
    assert (content["name"], content["language"]) == ("HumanEval/0", "js")


ON_INPUT = replace(PROGRAMS[3], tests=StandardInput(("1",), ("2",)))


@pytest.mark.parametrize(
    ("problems", "programs", "message"),
    [
        (JAVA[:1], PROGRAMS, "'J_1' is not a problem of the benchmark"),
        (JAVA, [*PROGRAMS, replace(PROGRAMS[0], sample=5)], "sample 5 of J_0 has no verdict"),
        (JAVA, [*PROGRAMS[:3], ON_INPUT], "J_1 is tested on standard input"),
    ],
)
def test_what_multipl_e_cannot_say_leaves_nothing_behind(tmp_path, problems, programs, message):
    with pytest.raises(FlextuneError, match=message):
        write_multipl_e(tmp_path, problems, programs, verdicts(*["passed"] * 4))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_multipl_e(tmp_path, JAVA, PROGRAMS, verdicts(*["passed"] * 4))
    assert list(tmp_path.iterdir()) == []
