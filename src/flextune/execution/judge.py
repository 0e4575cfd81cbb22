"""One program to one verdict: assemble, compile, run, and read the report of the tests' end."""

import math
import re
import secrets
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from flextune.errors import FlextuneError
from flextune.execution.languages import LANGUAGES, REPORT, Language, find_tool
from flextune.execution.process import Outcome, run_limited
from flextune.execution.sandbox import Layer
from flextune.execution.settings import Limits
from flextune.execution.verdict import Kind, Verdict
from flextune.tasks import StandardInput

DETAIL = 500
"""Characters of output that a verdict keeps."""
GRACE_SECONDS = 0.5
"""Processor time above the limit before the kernel kills instead of warning."""


@dataclass(frozen=True)
class Program:
    """One completion with the problem that it answers."""

    task_id: str
    sample: int
    language: str
    prompt: str
    completion: str
    tests: str | StandardInput


def judge(program: Program, layer: Layer, limits: Limits) -> Verdict:
    """Judge one program.

    Raises `FlextuneError` when the sandbox or the toolchain fails: that is never a verdict about the program.
    """
    started = time.monotonic()
    language = LANGUAGES[program.language]
    nonce = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="flextune-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        scratch.chmod(0o777)
        run = _Run(language, layer, limits, scratch, nonce)
        kind, detail = run.judge(program)
    return Verdict(program.task_id, program.sample, kind, round(time.monotonic() - started, 3), detail)


@dataclass(frozen=True)
class _Run:
    language: Language
    layer: Layer
    limits: Limits
    scratch: Path
    nonce: str

    def judge(self, program: Program) -> tuple[Kind, str]:
        language = self.language
        if isinstance(program.tests, StandardInput):
            main, text = "Main", language.prefix + program.completion
        else:
            main = language.main(program.tests)
            tests = language.report(program.tests, self.nonce)
            text = f"{language.prefix}{program.prompt}{program.completion}\n{tests}"
        if self.layer.scratch is None:
            text = text.replace(REPORT, str(self.scratch / Path(REPORT).name))
        source = self.scratch / language.source.format(main=main)
        source.write_bytes(text.encode("utf-8", "replace"))
        if language.compile is not None:
            failed = self._compile(source.name)
            if failed is not None:
                return failed
        if isinstance(program.tests, StandardInput):
            return self._standard_input(main, program.tests)
        report = self.scratch / Path(REPORT).name
        report.touch()
        report.chmod(0o666)
        outcome = self._execute(language.run(main, self.limits))
        ended = report.read_bytes() == self.nonce.encode() if report.is_file() else False
        return self._verdict(outcome, ended)

    def _compile(self, source: str) -> tuple[Kind, str] | None:
        assert self.language.compile is not None
        command = [word.format(tool=self._tool(), source=source) for word in self.language.compile]
        outcome = run_limited(
            self._wrap(command), self.scratch, self.limits.compile_seconds, self.limits.output_kb << 10
        )
        if outcome.stopped == "wall":
            return "compile_timeout", f"the compiler took more than {self.limits.compile_seconds:g} seconds"
        if outcome.stopped or outcome.status != 0:
            self._check_sandbox(outcome)
            return "compile_error", _tail(outcome.errors or outcome.output)
        return None

    def _standard_input(self, main: str, tests: StandardInput) -> tuple[Kind, str]:
        for number, (given, expected) in enumerate(zip(tests.inputs, tests.outputs, strict=True), start=1):
            outcome = self._execute(self.language.run(main, self.limits), given, whole=True)
            kind, detail = self._verdict(outcome, ended=True)
            if kind != "passed":
                return kind, f"test {number}: {detail}"
            found = outcome.output.decode("utf-8", "replace")
            if not same_output(found, expected):
                return "wrong_answer", f"test {number}: printed {found[:200]!r}, expected {expected[:200]!r}"
        return "passed", ""

    def _execute(self, command: list[str], stdin: str = "", whole: bool = False) -> Outcome:
        limits = self.limits
        cpu = math.ceil(limits.cpu_seconds)
        resources = [
            *("prlimit", f"--cpu={cpu}:{math.ceil(limits.cpu_seconds + GRACE_SECONDS)}", "--core=0"),
            *(f"--fsize={64 << 20}", f"--nproc={limits.processes}"),
        ]
        if self.language.limits_address_space:
            resources.append(f"--as={limits.memory_mb << 20}")
        tool = str(self._tool())
        inside = [*resources, "--", *(word.format(tool=tool) for word in command)]
        return run_limited(self._wrap(inside), self.scratch, limits.wall_seconds, limits.output_kb << 10, stdin, whole)

    def _verdict(self, outcome: Outcome, ended: bool) -> tuple[Kind, str]:
        errors = outcome.errors.decode("utf-8", "replace")
        detail = _tail(outcome.errors or outcome.output)
        if outcome.stopped == "output":
            return "output_limit", f"more than {self.limits.output_kb} KB of output"
        if outcome.stopped == "wall":
            return "timeout", f"{self.limits.wall_seconds:g} seconds by the clock"
        if outcome.status == 0:
            return ("passed", "") if ended else ("early_exit", "it ended before its tests did")
        # a sandbox reports a program killed by signal n as exit status 128 + n
        if outcome.status in (-signal.SIGXCPU, 128 + signal.SIGXCPU, -signal.SIGKILL, 128 + signal.SIGKILL):
            return "timeout", f"{self.limits.cpu_seconds:g} seconds of processor time"
        self._check_sandbox(outcome)
        if re.search(self.language.no_memory, errors):
            return "memory_limit", detail
        if re.search(self.language.assertion, errors):
            return "wrong_answer", detail
        return "runtime_error", detail or f"exit status {outcome.status}"

    def _check_sandbox(self, outcome: Outcome) -> None:
        """A message of the sandbox or of `prlimit` is not the program's fault."""
        text = outcome.errors.decode("utf-8", "replace").lstrip()
        if text.startswith(("bwrap: ", "prlimit: ", "setpriv: ")):
            raise FlextuneError(f"the sandbox failed: {text.splitlines()[0]}")

    def _tool(self) -> Path:
        tool = find_tool(self.language.name)
        if tool is None:
            raise FlextuneError(f"{self.language.tool} is missing: {self.language.install}")
        return tool

    def _wrap(self, command: list[str]) -> list[str]:
        folders = list(self.language.folders)
        real = self._tool().resolve()
        if not real.is_relative_to("/usr"):
            folders += [str(real.parent.parent), str(self._tool().parent)]
        return self.layer.wrap(self.scratch, folders, command)


def same_output(found: str, expected: str) -> bool:
    """True when two outputs are the same but for white space at the ends of lines and of the text (APPS's rule)."""
    return [line.split() for line in found.strip().splitlines()] == [
        line.split() for line in expected.strip().splitlines()
    ]


def _tail(output: bytes) -> str:
    return output.decode("utf-8", "replace").strip()[-DETAIL:]
