"""One program to one verdict: assemble, compile, run, and read the report of the tests' end."""

import math
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
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
    nonce = secrets.token_hex(16)
    scratch = Path(tempfile.mkdtemp(prefix="flextune-"))
    try:
        scratch.chmod(0o777)
        kind, detail = _Run(LANGUAGES[program.language], layer, limits, scratch, nonce).judge(program)
    finally:
        _remove(scratch)
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
            main, text = "Main", language.prefix + program.prompt + program.completion
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
        return self._verdict(outcome, ended=_read_report(report) == self.nonce.encode())

    def _compile(self, source: str) -> tuple[Kind, str] | None:
        assert self.language.compile is not None
        limits = self.limits
        command = [
            "prlimit",
            "--core=0",
            f"--fsize={256 << 20}",
            f"--cpu={math.ceil(2 * limits.compile_seconds)}",
            "--",
        ]
        command += [word.format(**self._names(), source=source) for word in self.language.compile]
        outcome = self._run(command, limits.compile_seconds)
        if outcome.stopped == "wall":
            return "compile_timeout", f"the compiler took more than {limits.compile_seconds:g} seconds"
        if outcome.stopped or outcome.status != 0:
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
        resources = ["prlimit", f"--cpu={cpu}:{cpu + 1}", "--core=0", f"--fsize={64 << 20}"]
        if self.layer.scratch is not None:  # on the open machine the limit would count the caller's processes too
            resources.append(f"--nproc={limits.processes}")
        if self.language.limits_address_space:
            resources.append(f"--as={limits.memory_mb << 20}")
        inside = [*resources, "--", *(word.format(**self._names()) for word in command)]
        return self._run(inside, limits.wall_seconds, stdin, whole)

    def _run(self, command: list[str], wall_seconds: float, stdin: str = "", whole: bool = False) -> Outcome:
        """Run a command inside the sandbox; a failure of the sandbox itself raises."""
        folders = list(self.language.folders)
        tool = find_tool(self.language.name)
        assert tool is not None
        if not tool.is_relative_to("/usr"):
            folders.append(str(tool.parent.parent))
        with tempfile.TemporaryFile() as report:
            wrapped = self.layer.wrap(self.scratch, folders, command, report.fileno())
            outcome = run_limited(
                wrapped,
                self.scratch,
                wall_seconds,
                self.limits.output_kb << 10,
                stdin,
                whole,
                pass_fds=(report.fileno(),),
            )
            report.seek(0)
            if not outcome.stopped and not self.layer.started(report.read()):
                said = outcome.errors.decode("utf-8", "replace").strip().splitlines()
                raise FlextuneError(f"the sandbox failed: {said[0] if said else f'exit status {outcome.status}'}")
        return outcome

    def _names(self) -> dict[str, str]:
        """What the commands of a language are filled in with."""
        tool = find_tool(self.language.name)
        if tool is None:
            raise FlextuneError(f"{self.language.tool} is missing: {self.language.install}")
        return {"tool": str(tool), "folder": str(tool.parent)}

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
        if outcome.status in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
            return "timeout", f"{self.limits.cpu_seconds:g} seconds of processor time"
        if outcome.status in (-signal.SIGKILL, 128 + signal.SIGKILL) and outcome.seconds >= self.limits.cpu_seconds:
            return "timeout", f"{self.limits.cpu_seconds:g} seconds of processor time"
        if re.search(self.language.no_memory, errors):
            return "memory_limit", detail
        if re.search(self.language.assertion, errors):
            return "wrong_answer", detail
        return "runtime_error", detail or f"exit status {outcome.status}"


def same_output(found: str, expected: str) -> bool:
    """True when two outputs are the same but for white space at the ends of lines and of the text (APPS's rule)."""
    return [line.split() for line in found.strip().splitlines()] == [
        line.split() for line in expected.strip().splitlines()
    ]


def _tail(output: bytes) -> str:
    return output.decode("utf-8", "replace").strip()[-DETAIL:]


def _read_report(path: Path) -> bytes:
    """What stands in the report; the program may have put anything in its place, so only a plain file is read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 64) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def _remove(scratch: Path) -> None:
    """Remove what a program left, however deep and with whatever permissions."""
    try:
        shutil.rmtree(scratch)
    except (OSError, RecursionError):
        subprocess.run(["chmod", "-R", "u+rwX", scratch], capture_output=True, check=False)
        subprocess.run(["rm", "-rf", scratch], capture_output=True, check=False)
