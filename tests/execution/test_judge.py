"""No program passes without running its tests to their end, and what a program does is what its verdict says."""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace

import pytest
from conformance.languages import CASES, PARTS

from flextune.errors import FlextuneError, UsageError
from flextune.execution import Execution, Limits, Program, engine, execute, sandbox
from flextune.execution.judge import same_output
from flextune.execution.sandbox import bubblewrap, choose, launched
from flextune.scoring.form import is_code
from flextune.tasks import StandardInput, load_benchmark

LIMITS = Limits(cpu_seconds=30, wall_seconds=300, memory_mb=512, output_kb=256)
"""Far more time than a program here takes, however busy the machine is."""


def _parts(language, completion):
    prompt, tests = PARTS[language]
    return prompt, completion, tests


def verdict(language, completion, tests=None, **settings):
    prompt, usual = PARTS[language]
    program = Program("t", 0, language, prompt, completion, tests or usual)
    return execute([program], Execution(**{"limits": LIMITS, **settings}))[0]


FORGED = {
    "python": {
        "sys.exit": "    import sys; sys.exit(0)",
        "exit hook": "    import atexit, os; atexit.register(lambda: os._exit(0)); return 1",
        "excepthook": "    import sys, os; sys.excepthook = lambda *a: os._exit(0); return 1",
        "printed success": "    print('passed'); raise SystemExit",
        "caught": "    import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    },
    "java": {
        "halt": "        Runtime.getRuntime().halt(0);\n        return 2l;",
        "handler": "        Thread.setDefaultUncaughtExceptionHandler((t, e) -> System.exit(0));\n        return 1l;",
        "own main": (
            "        return x; }\n    public static void main(String[] args) { }\n}\n"
            "class Other {\n    static long f(long x) { return 2l;"
        ),
    },
    "javascript": {
        "exit event": "    process.on('exit', () => { process.exitCode = 0; }); return 1;\n}",
        "handler": "    process.on('uncaughtException', () => process.exit(0)); return 1;\n}",
    },
    "cpp": {
        "quick_exit": "    std::quick_exit(0);",
        "handler": "    signal(SIGABRT, [](int) { _Exit(0); }); return 1;",
    },
}


@pytest.mark.parametrize(
    ("language", "completion"),
    [
        pytest.param(language, completion, id=f"{language}-{name}")
        for language, forgeries in FORGED.items()
        for name, completion in forgeries.items()
    ],
)
def test_no_forgery_passes(language, completion):
    assert verdict(language, completion).verdict in ("early_exit", "wrong_answer", "runtime_error")


HELD = {
    "network": "    import socket; socket.create_connection(('127.0.0.1', 22), timeout=1); return 2",
    "home": "    import os; os.listdir('/root') or os.listdir('/home'); return 2",
    "environment": (
        "    import os; assert set(os.environ) <= {'PATH', 'HOME', 'LANG', 'LC_CTYPE', 'PWD', 'TMPDIR'}; return 2 / 0"
    ),
    "system": "    open('/usr/x', 'w'); return 2",
}


@pytest.mark.parametrize("name", HELD)
def test_the_sandbox_holds(name):
    """Each of these returns the right answer if it gets out; one raises ZeroDivisionError once all is well inside."""
    found = verdict("python", HELD[name])
    assert found.verdict == "runtime_error", found
    if name == "environment":
        assert "ZeroDivisionError" in found.detail


WRECKERS = {
    "a link to a host file": "    import os; os.symlink('/etc/passwd', 'p'); os._exit(0)",
    "a pipe": "    import os; os.mkfifo('p'); os._exit(0)",
    "deep folders": "    import os\n    for _ in range(3000):\n        os.mkdir('d'); os.chdir('d')\n    os._exit(0)",
    "closed folders": "    import os; os.makedirs('a/b'); os.chmod('a', 0); os._exit(0)",
}


@pytest.mark.parametrize("layer", ["bubblewrap", "native"])
@pytest.mark.parametrize("name", WRECKERS)
def test_nothing_left_behind_disturbs_the_engine(name, layer, monkeypatch):
    make, made = tempfile.mkdtemp, []
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *args, **options: made.append(make(*args, **options)) or made[-1])
    assert verdict("python", WRECKERS[name], sandbox=layer).verdict == "early_exit"
    assert made
    assert [folder for folder in made if os.path.lexists(folder)] == []


def test_a_program_cannot_speak_for_the_sandbox():
    said = "    import sys; sys.stderr.write('bwrap: no\\n'); sys.exit(1)"
    assert verdict("python", said).verdict == "runtime_error"


def test_files_without_a_byte_are_counted():
    body = "    import os\n    for n in range(10**9):\n        os.close(os.open(str(n), os.O_CREAT))"
    found = verdict("python", body, sandbox="bubblewrap")
    assert (found.verdict, found.detail) == ("output_limit", "more than 64 MB of files, or 100,000 files")


def test_a_program_that_kills_itself_is_not_slow():
    assert verdict("python", "    import os; os.kill(os.getpid(), 9)").verdict == "runtime_error"


def test_a_fork_bomb_is_held_and_gone():
    limits = replace(LIMITS, cpu_seconds=2, wall_seconds=6)
    found = verdict("python", "    import os\n    while True:\n        os.fork()", limits=limits)
    assert found.verdict in ("runtime_error", "timeout", "memory_limit")  # by which wall, the machine decides
    assert verdict("python", CASES["passed"]["python"]).verdict == "passed"


def test_a_megabyte_of_prints_is_no_timeout():
    found = verdict("python", "    print('x' * 10**6)\n    return x + 1", limits=Limits(output_kb=2048))
    assert found.verdict == "passed"


def test_a_sleeper_is_stopped_by_the_clock():
    limits = Limits(wall_seconds=3)
    assert verdict("python", "    import time; time.sleep(120)", limits=limits).verdict == "timeout"


def test_text_that_is_no_text():
    assert verdict("python", "    return '\ud800\x00'").verdict == "compile_error"


def test_standard_input():
    tests = StandardInput(inputs=("1 2\n", "3 4\n"), outputs=("3\n", "7 \n"))
    add = "a, b = map(int, input().split())\nprint(a + b)\n"
    program = Program("t", 0, "python", '"""Prose."""\n', add, tests)
    assert execute([program])[0].verdict == "passed"
    wrong = Program("t", 0, "python", "", "print(3)", tests)
    found = execute([wrong])[0]
    assert (found.verdict, found.detail) == ("wrong_answer", "test 2: printed '3\\n', expected '7 \\n'")


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("a  b \n\n", "a b", True),
        ("a\nb", "a b", False),
        ("1\n\n2\n", "1\n2", True),
        ("0.3333333333333333", "0.333333", True),
        ("2.0 x", "2 x", True),
        ("1e-9", "0.0", True),
        ("0.334", "0.333", False),
        ("100000", "100001", False),
        ("1_0.0", "10", False),
        ("nan", "nan", True),
        ("", "1", False),
    ],
)
def test_outputs_are_the_same_as_apps_has_it(found, expected, same):
    assert same_output(found, expected) == same


LONG_WORDS = """
import resource
from flextune.execution.judge import same_output
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # far more than where each digit is read once
for word in ("1" * 1_000_000 + "x", "." + "1" * 1_000_000 + "x", "1" * 1_000_000 + "e"):
    assert not same_output(word, "1.5")
"""


def test_a_long_word_takes_no_longer_than_its_length():
    """A pattern that matches digits in two ways takes the square of the length: hours of processor time."""
    assert subprocess.run([sys.executable, "-c", LONG_WORDS], check=False).returncode == 0


def test_a_program_may_call_its_variables_what_it_likes():
    taken = "    return x + 1\n\nint = float = str = bytes = print = None\n"
    assert verdict("python", taken).verdict == "passed"


@pytest.mark.parametrize("layer", ["bubblewrap", "native"])
def test_nothing_is_left_for_the_next_program(layer):
    """In one room after another: what is said about the folder would outlive what lies in it."""
    leave = (
        "    import os\n    for name in ('.', '/tmp', '/dev/shm'):\n        for set in (\n"
        "            lambda: os.setxattr(name, 'user.note', b'1'),\n"
        "            lambda: os.setxattr(os.open(name, os.O_RDONLY), 'user.note', b'1'),\n        ):\n"
        "            try:\n                set()\n            except OSError:\n                pass\n    return x + 1"
    )
    look = "    import os\n    return x + 1 if not os.listxattr('.') + os.listxattr('/tmp') else 0"
    programs = [Program(str(n), 0, "python", *_parts("python", leave if n == 0 else look)) for n in range(2)]
    found = execute(programs, Execution(limits=LIMITS, sandbox=layer, workers=1))
    assert [verdict.verdict for verdict in found] == ["passed", "passed"]


CLOSED = {
    "closed": "    import sys; sys.stdout.close(); sys.stderr.close(); return x + 1",
    "left by with": "    import sys\n    with sys.stdout:\n        return x + 1",
    "none": "    import sys; sys.stdout = sys.stderr = None; return x + 1",
    "a failing exit function": "    import atexit; atexit.register(lambda: 1 / 0); return x + 1",
}


@pytest.mark.parametrize("layer", ["bubblewrap", "native", "none"])
@pytest.mark.parametrize("name", CLOSED)
def test_what_python_does_not_mind_at_its_end(name, layer):
    assert verdict("python", CLOSED[name], sandbox=layer, allow_unsandboxed=True).verdict == "passed"


@pytest.mark.parametrize("layer", ["bubblewrap", "native", "none", "bubblewrap without landlock"])
def test_hashes_are_the_same_in_every_program(layer, monkeypatch):
    if layer.endswith("landlock"):  # then each command gets a bubblewrap of its own
        monkeypatch.setattr(sandbox, "_layer", lambda name, disk_mb: bubblewrap.Bubblewrap(None, disk_mb))
    prompt, tests = PARTS["python"]
    bodies = [f"    return x + 1 if hash('a') % 2 else 0  # {number}" for number in range(10)]
    programs = [Program(body, 0, "python", prompt, body, tests) for body in bodies]
    settings = Execution(limits=LIMITS, sandbox=layer.partition(" ")[0], allow_unsandboxed=True)
    assert len({found.verdict for found in execute(programs, settings)}) == 1


@pytest.mark.parametrize(
    "name", ["humaneval", "humaneval-x-java", "humaneval-x-js", "humaneval-x-cpp", "humaneval-x-python", "mbpp"]
)
def test_published_solutions_pass(data, name):
    problems = load_benchmark(name, data).problems
    programs = [Program(p.task_id, 0, p.language, p.prompt, p.solution, p.tests) for p in problems]
    assert [found.verdict for found in execute(programs)] == ["passed"] * len(programs)


@pytest.mark.parametrize("short", ["py", "java", "js", "cpp"])
def test_translated_problems_are_judged(data, short):
    (problem,) = (p for p in load_benchmark(f"humaneval-{short}", data).problems if p.task_id == "HumanEval_53_add")
    for operator, expected in (("+", "passed"), ("-", "wrong_answer")):
        end = {"py": "", "js": ";\n}"}.get(short, ";")
        completion = f"    return x {operator} y{end}\n"
        program = Program(problem.task_id, 0, problem.language, problem.prompt, completion, problem.tests)
        assert execute([program])[0].verdict == expected


def test_apps_functions_are_judged(data, tmp_path):
    """The training rows with functions, asked as a benchmark would ask them."""
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "test.jsonl").write_bytes((data / "apps" / "train.jsonl").read_bytes())
    problems = load_benchmark("apps", tmp_path).problems
    assert len(problems) == 2
    for problem in problems:
        for code, expected in ((problem.solution, "passed"), ("x = 1\n", "runtime_error")):
            program = Program(problem.task_id, 0, "python", problem.prompt, code, problem.tests)
            assert execute([program])[0].verdict == expected
            assert is_code("python", problem.prompt, code)


def test_a_missing_toolchain_stops_before_anything_runs(monkeypatch):
    monkeypatch.setattr("flextune.execution.toolchain.find_tool", lambda name: None)
    with pytest.raises(FlextuneError, match=r"javac is missing, which judges programs in java: apt-get install"):
        verdict("java", "")
    with pytest.raises(FlextuneError, match=r"programs in cobol cannot be judged; there are .*java, .*python"):
        execute([Program("t", 0, "cobol", "", "", "")])


def test_without_a_sandbox_it_refuses(monkeypatch):
    monkeypatch.setattr(sandbox, "problem", lambda name: f"{name} is not installed")
    for name in ("auto", "bubblewrap"):
        with pytest.raises(FlextuneError, match=r"bubblewrap: bubblewrap is not installed.*: mend that, or agree"):
            choose(name)
    with pytest.raises(UsageError, match="--allow-unsandboxed"):
        choose("none")
    with pytest.raises(FlextuneError, match="no sandbox"):
        choose("bubblewrap", allow_unsandboxed=True)
    assert choose("auto", allow_unsandboxed=True).name == "none"


def test_without_a_sandbox_it_still_judges_when_told_to():
    found = verdict("python", CASES["passed"]["python"], sandbox="none", allow_unsandboxed=True)
    assert found.verdict == "passed"


def test_a_broken_sandbox_is_no_verdict(monkeypatch):
    assert sandbox.problem("bubblewrap") is None  # what breaks afterwards
    monkeypatch.setattr(bubblewrap, "as_nobody", lambda: ["false"])
    for language in ("python", "javascript"):
        with pytest.raises(FlextuneError, match="the sandbox failed"):
            verdict(language, CASES["passed"][language])


def test_a_launcher_that_dies_is_no_verdict(monkeypatch):
    monkeypatch.setattr(
        launched, "SOURCE", launched.SOURCE.replace("restrict_calls(self.filter)", "raise OSError('no')")
    )
    with pytest.raises(FlextuneError, match="the sandbox failed: no"):
        verdict("python", CASES["passed"]["python"], sandbox="native")


NEIGHBOURS = {
    "time to clean up": "    import os\n    for n in range(95_000): os.mknod(f'f{n}')\n    return x",
    "limits of the launcher": "    import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_NPROC, (0, 0))",
    "priority of the launcher": "    import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "the first process": "    import os; [os.kill(p, s) for p in (1, os.getppid()) for s in (2, 9, 15)]",
    "a parser that is stopped": "    return x\n" + "y = (lambda: [z for z in y if (y, y, y)])\n" * 60_000,
}


@pytest.mark.parametrize("layer", ["bubblewrap", "native"])
@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_program_costs_its_neighbour_nothing(name, layer, monkeypatch):
    """The second program uses most of its processor time, in the same room, after the first."""
    order = []
    judge = engine.judge
    monkeypatch.setattr(engine, "judge", lambda program, *rest: order.append(program.task_id) or judge(program, *rest))
    prompt, tests = PARTS["python"]
    busy = (
        "    import itertools, os, time\n    for _ in itertools.count():\n        if time.process_time() >= 1:\n"
        "            return x + 1 if os.getpriority(os.PRIO_PROCESS, 0) == 0 else 0"
    )
    bodies = {"first": f"{NEIGHBOURS[name]}  # while", "second": busy}  # the engine begins with what may be endless
    programs = [Program(task_id, 0, "python", prompt, body, tests) for task_id, body in bodies.items()]
    limits = Limits(cpu_seconds=1.5, wall_seconds=300, memory_mb=2048)
    found = execute(programs, Execution(workers=1, sandbox=layer, limits=limits))
    assert order == ["first", "second"]
    assert found[1].verdict == "passed", found
    assert found[0].verdict in ("wrong_answer", "runtime_error", "timeout", "compile_timeout")


def test_more_workers_than_numbers_for_files_that_are_low():
    prompt, tests = PARTS["python"]
    programs = [Program(str(n), 0, "python", prompt, f"    return x + 1  # {n}", tests) for n in range(80)]
    assert {found.verdict for found in execute(programs, Execution(workers=80))} == {"passed"}


LEAVING = {
    "cpp": ("}\nint main() {\n    assert(f(1) == 2);\n    return 0;\n}\n", "    return x + 1;"),
    "java": (
        "    }\n    public static void main(String[] args) {\n    assert(f(1l) == (2l));\n"
        "    System.exit(0);\n    }\n\n}\n",
        "        return x + 1;",
    ),
}


@pytest.mark.parametrize("language", LEAVING)
def test_tests_that_leave_by_themselves_report_before(language):
    tests, right = LEAVING[language]
    assert verdict(language, right, tests).verdict == "passed"
    assert verdict(language, right.replace(" + 1", ""), tests).verdict == "wrong_answer"


def test_tests_that_cannot_report_are_named_before_anything_runs():
    with pytest.raises(FlextuneError, match="mine/1: the tests do not end with 1 closing braces"):
        execute([Program("mine/1", 0, "cpp", "", "", "int x;")])


def test_files_are_open_to_nobody_whatever_the_mask():
    """Root's own mask must not keep the compiled header from the compiler."""
    prompt, tests = PARTS["cpp"]
    programs = [Program(str(n), 0, "cpp", prompt, f"    return x + 1; // {n}", tests) for n in range(5)]
    before = os.umask(0o077)
    try:
        assert {found.verdict for found in execute(programs)} == {"passed"}
    finally:
        os.umask(before)
