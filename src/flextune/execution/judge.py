"""One program to one verdict: assemble, compile, run, and read the report of the tests' end."""

import contextlib
import math
import os
import re
import secrets
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import IO

from flextune.errors import FlextuneError
from flextune.execution.program import Program
from flextune.execution.sandbox import Job, Room
from flextune.execution.sandbox.supervise import MOST_FILES, Allowance, Outcome, Report, supervise
from flextune.execution.session import Session, remove
from flextune.execution.toolchain import PATH, tool_path
from flextune.execution.verdict import Kind, Verdict
from flextune.languages import LANGUAGES, End, Language
from flextune.tasks import StandardInput

DETAIL = 500
"""Characters of output that a verdict keeps."""
SPARE_MB = 256
"""Memory that the processes of a program may take together beyond what one of them may: runtimes need some too."""
COMPILER_MB = 2048
NUMBER = r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"
"""A number on its own; a digit can be matched in one way only, so that a long word takes no longer than its length."""


@dataclass(frozen=True)
class Finding:
    """A verdict, and whether to doubt it."""

    verdict: Verdict
    doubtful: bool = False
    """It was stopped by the clock without having used its processor time: it slept, or the machine was busy."""


def judge(program: Program, room: Room, session: Session) -> Finding:
    """Judge one program in a room.

    Raises `FlextuneError` when the sandbox or the toolchain fails: that is never a verdict about the program.
    """
    started = time.monotonic()
    language = LANGUAGES[program.language]
    with contextlib.ExitStack() as stack:
        report = Report()
        stack.callback(report.close)
        end = End(report.name(room), secrets.randbelow(1 << 26), secrets.randbelow(1 << 26))
        if language.runs_in_room and room.runs_python:
            run: _Python | _Compiled = _Python(language, room, session, report, end)
        else:
            number, folder = session.new_folder()
            stack.callback(remove, folder)
            run = _Compiled(language, room, session, report, end, number, folder)
        kind, detail, doubtful = run.judge(program)
        detail = re.sub(rf"{re.escape(str(session.folder))}/(\d+/)?", "", detail)[-DETAIL:]
    seconds = round(time.monotonic() - started, 3)
    return Finding(Verdict(program.task_id, program.sample, kind, seconds, detail), doubtful)


Found = tuple[Kind, str, bool]


@dataclass(frozen=True)
class _Run:
    """What compiled programs and Python programs have in common."""

    language: Language
    room: Room
    session: Session
    report: Report
    end: End

    def text(self, program: Program) -> str:
        """The whole program, with tests that report their end."""
        if isinstance(program.tests, StandardInput):
            return program.prompt + program.completion
        if self.session.settings.compatible:
            return f"{program.prompt}{program.completion}\n{program.tests}"
        tests = self.language.report(program.tests, self.end)
        return f"{self.language.prepare(program.prompt)}{program.completion}\n{tests}"

    def run(self, program: Program, job: Job) -> Found:
        """Run the tests: once, or once for each standard input."""
        if not isinstance(program.tests, StandardInput):
            outcome = supervise(self.room, job, self._allowed(), report=self.report)
            ended = self.session.settings.compatible or str(self.end.a * self.end.b).encode() in self.report.read()
            return self._found(outcome, ended)
        for number, (given, expected) in enumerate(
            zip(program.tests.inputs, program.tests.outputs, strict=True), start=1
        ):
            if job.python is not None:
                os.lseek(job.python, 0, os.SEEK_SET)
            with holding(given) as stdin:
                outcome = supervise(self.room, job, self._allowed(), stdin, whole=True)
            kind, detail, doubtful = self._found(outcome, ended=True)
            if kind != "passed":
                return kind, f"test {number}: {detail}", doubtful
            found = outcome.output.decode("utf-8", "replace")
            if not same_output(found, expected):
                return "wrong_answer", f"test {number}: printed {found[:200]!r}, expected {expected[:200]!r}", False
        return "passed", "", False

    def _allowed(self) -> Allowance:
        limits = self.session.settings.limits
        return Allowance(
            cpu_seconds=limits.cpu_seconds,
            wall_seconds=limits.wall_seconds,
            memory_mb=limits.memory_mb + SPARE_MB,
            disk_mb=limits.disk_mb,
            output_bytes=limits.output_kb << 10,
        )

    def _limits(self) -> dict[str, int]:
        """For each process; the second on top is for the count over all of them to come first."""
        limits = self.session.settings.limits
        found = {
            "CPU": math.ceil(limits.cpu_seconds) + 1,
            "NPROC": limits.processes,
            "FSIZE": limits.disk_mb << 20,
            "CORE": 0,
            "NOFILE": 1024,
        }
        if self.language.bounded_by:
            found[self.language.bounded_by] = limits.memory_mb << 20
        return found

    def _environment(self) -> dict[str, str]:
        scratch = self.room.scratch()
        return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": scratch, "TMPDIR": scratch}

    def _found(self, outcome: Outcome, ended: bool) -> Found:
        limits = self.session.settings.limits
        said = (outcome.errors + b"\n" + outcome.output).decode("utf-8", "replace")
        detail = _tail(outcome.errors or outcome.output)
        if not outcome.compiled and outcome.stopped in ("", "cpu", "wall"):
            kind: Kind = "compile_timeout" if outcome.stopped else "compile_error"
            silent = "the parser took too long" if outcome.stopped else f"the parser ended with {outcome.status}"
            return kind, detail or silent, outcome.stopped == "wall"
        match outcome.stopped:
            case "output":
                return "output_limit", f"more than {limits.output_kb} KB of output", False
            case "disk":
                return "output_limit", f"more than {limits.disk_mb} MB of files, or {MOST_FILES:,} files", False
            case "cpu":
                return "timeout", f"{limits.cpu_seconds:g} seconds of processor time", False
            case "wall":
                return "timeout", f"{limits.wall_seconds:g} seconds by the clock", True
            case "memory":
                return "memory_limit", f"more than {limits.memory_mb + SPARE_MB} MB in all", False
        if outcome.status == 0:
            return ("passed", "", False) if ended else ("early_exit", "it ended before its tests did", False)
        if outcome.status == 128 + signal.SIGXFSZ:
            return "output_limit", f"a file of more than {limits.disk_mb} MB", False
        if re.search(self.language.no_memory, said, re.MULTILINE):
            return "memory_limit", detail, False
        if re.search(self.language.assertion, said, re.MULTILINE):
            return "wrong_answer", detail, False
        return "runtime_error", detail or f"exit status {outcome.status}", False


@dataclass(frozen=True)
class _Python(_Run):
    """A Python program that the room runs itself."""

    def judge(self, program: Program) -> Found:
        with holding(self.text(program)) as source:
            return self.run(program, Job(python=source, environment=self._environment(), limits=self._limits()))


@dataclass(frozen=True)
class _Compiled(_Run):
    """A program with a source file, which is compiled, or at least parsed, before it runs."""

    number: int
    folder: Path

    def judge(self, program: Program) -> Found:
        stdin = isinstance(program.tests, StandardInput)
        main = "Main" if stdin else self.language.main(str(program.tests))
        source = self.folder / self.language.source.format(main=main)
        text = self.text(program)
        source.write_bytes(text.encode("utf-8", "replace"))
        source.chmod(0o644)
        failed = self._compile(source, text)
        if failed is not None:
            return failed
        self.folder.chmod(0o755)
        command = self.language.run(main, self.session.settings.limits.memory_mb)
        job = self._job(command, source, self._limits())
        return self.run(program, job)

    def _job(self, command: list[str], source: Path, limits: dict[str, int]) -> Job:
        tool = tool_path(self.language.name)
        names = {
            "tool": tool,
            "folder": str(Path(tool).parent),
            "program": str(self.folder),
            "source": str(source),
            "warm": str(self._warm or self.room.scratch()),
        }
        return Job(
            command=tuple(word.format(**names) for word in command),
            folder=self.folder,
            readable=(str(self._warm),) if self._warm else (),
            environment=self._environment()
            | {key: value.format(**names) for key, value in self.language.environment.items()},
            limits=limits,
        )

    @cached_property
    def _warm(self) -> Path | None:
        return self.session.warm(self.language.name)

    def _compile(self, source: Path, text: str) -> Found | None:
        """None if it compiled."""
        if self.language.compile is None:
            return None
        if self.language.compile_server:
            errors = self.session.compiler(self.number).compile(source)
            if errors is not None:
                _check_release(errors.encode())
                return ("compile_error", _tail(errors.encode()), False) if errors else None
        limits = self.session.settings.limits
        command = list(self.language.compile)
        if self.language.release_option and self.session.settings.java_release:
            command[1:1] = [self.language.release_option, str(self.session.settings.java_release)]
        warm = self.language.warm
        if warm is not None and self._warm is not None and re.search(warm.pattern, text, re.MULTILINE):
            command[1:1] = warm.options
        seconds = math.ceil(limits.compile_seconds)
        resources = {"CPU": seconds + 1, "CORE": 0, "FSIZE": 256 << 20, "NPROC": limits.processes, "NOFILE": 1024}
        job = replace(self._job(command, source, resources), writable=True)
        allowed = replace(
            self._allowed(), cpu_seconds=seconds, wall_seconds=3 * seconds, memory_mb=COMPILER_MB, disk_mb=1024
        )
        outcome = supervise(self.room, job, allowed)
        _check_release(outcome.errors)
        match outcome.stopped:
            case "cpu":
                return "compile_timeout", f"the compiler took more than {seconds} seconds of processor time", False
            case "wall":
                return "compile_timeout", f"the compiler took more than {3 * seconds} seconds by the clock", True
            case "memory":
                return "compile_error", f"the compiler took more than {COMPILER_MB} MB", False
            case "":
                if outcome.status == 0:
                    return None
        return "compile_error", _tail(outcome.errors or outcome.output) or "the compiler failed", False


@contextlib.contextmanager
def holding(text: str) -> Iterator[int]:
    """An open file with a text, to be read from its start; in memory where that can be had."""
    if hasattr(os, "memfd_create"):
        opened: IO[bytes] = os.fdopen(os.memfd_create("program"), "w+b", buffering=0)
    else:
        opened = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    with opened as file:
        file.write(text.encode("utf-8", "replace"))
        file.seek(0)
        yield file.fileno()


def _check_release(errors: bytes) -> None:
    """Raise `FlextuneError` if the compiler does not know the version of Java that was asked for."""
    if found := re.search(rb"release version \d+ not supported", errors):
        raise FlextuneError(f"execution.java_release: javac says {found[0].decode()!r}; `javac --help` lists them")


def same_output(found: str, expected: str) -> bool:
    r"""True when two outputs are the same word by word in each line, empty lines left out.

    Two numbers of which one has a point or an exponent are the same if they are close, as in APPS's own checker; it
    also takes integers that are close, and lines in any order, which are not the same here.

    >>> same_output("0.3333333333 x", "0.333333 x"), same_output("100000", "100001"), same_output("1\n\n2", "1\n2\n")
    (True, False, True)
    """
    ours, theirs = ([line.split() for line in text.splitlines() if line.strip()] for text in (found, expected))
    return ours == theirs or (
        list(map(len, ours)) == list(map(len, theirs))
        and all(map(_same_word, chain.from_iterable(ours), chain.from_iterable(theirs)))
    )


def _same_word(found: str, expected: str) -> bool:
    if found == expected:
        return True
    if all(re.fullmatch(NUMBER, word) for word in (found, expected)) and re.search(r"[.eE]", found + expected):
        return math.isclose(float(found), float(expected), rel_tol=1e-5, abs_tol=1e-8)
    return False


def _tail(output: bytes) -> str:
    return output.decode("utf-8", "replace").strip()[-2 * DETAIL :]
