"""bubblewrap: namespaces of its own for everything; nothing to see but toolchains, the program and a scratch folder.

Each worker has two bubblewraps, one for programs and one for compilers, which may write; in each, a launcher confines
one job after another once more (see launcher.py). Where the kernel has no landlock to do that with, each job gets a
bubblewrap of its own.
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flextune.execution.sandbox import kernel
from flextune.execution.sandbox.launched import COMPILER_DISK_MB, REPORT, SYSTEM, Launcher
from flextune.execution.sandbox.layer import IN_MEMORY, SCRATCH, Ended, Files, Job, Room, Running, SandboxError
from flextune.execution.sandbox.process import Process, limited

NAME = "bubblewrap"


class Bubblewrap:
    """The layer. `python` runs the launchers; None where there is no landlock."""

    name = NAME

    def __init__(self, python: str | None, disk_mb: int) -> None:
        self.python = python
        self.disk_mb = disk_mb

    def room(self, session: Path, readable: Sequence[str]) -> Room:
        """A room with bubblewraps that last, or one that makes them for each job."""
        if self.python is None:
            return SingleRoom(self.disk_mb, readable)
        return LastingRoom(self.python, self.disk_mb, session, readable)


class LastingRoom:
    """One worker's place: launchers in bubblewraps."""

    runs_python = True
    report_number: int | None = REPORT

    def __init__(self, python: str, disk_mb: int, session: Path, readable: Sequence[str]) -> None:
        def launcher(bind: str, size: int) -> Launcher:
            options = [*_options(size, readable), bind, str(session), str(session), *_closing()]
            return Launcher(lambda command: [*options, "--", *command], python, SCRATCH, readable, alone=True)

        self._programs = launcher("--ro-bind", disk_mb)
        self._compilers = launcher("--bind", COMPILER_DISK_MB)

    def scratch(self) -> str:
        """Where a job starts."""
        return SCRATCH

    def start(self, job: Job, files: Files) -> Running:
        """Start a job."""
        return (self._compilers if job.writable else self._programs).start(job, files)

    def usage(self) -> Path | None:
        """None: its folders are in memory, with a size."""
        return None

    def close(self) -> None:
        """Give the room back."""
        self._programs.stop()
        self._compilers.stop()


class SingleRoom:
    """One worker's place: a bubblewrap for each command."""

    runs_python = False
    report_number: int | None = None

    def __init__(self, disk_mb: int, readable: Sequence[str]) -> None:
        self._disk_mb = disk_mb
        self._readable = readable

    def scratch(self) -> str:
        """Where a job starts."""
        return SCRATCH

    def start(self, job: Job, files: Files) -> Running:
        """Start a job."""
        options = _options(COMPILER_DISK_MB if job.writable else self._disk_mb, (*self._readable, *job.readable))
        if job.folder:
            options += ["--bind" if job.writable else "--ro-bind", str(job.folder), str(job.folder)]
        return _Wrapped([*options, *_closing()], job, files)

    def usage(self) -> Path | None:
        """None: its folders are in memory, with a size."""
        return None

    def close(self) -> None:
        """Nothing is kept."""


class _Wrapped:
    """A command in a bubblewrap of its own."""

    def __init__(self, wrap: Sequence[str], job: Job, files: Files) -> None:
        # bubblewrap writes the exit code there only if its set-up succeeded and the command was there
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        calls, writing = os.pipe()
        os.write(writing, kernel.seccomp_filter(platform.machine(), kernel.DENIED, namespaces=False))
        os.close(writing)
        variables = [word for item in job.environment.items() for word in ("--setenv", *item)]
        options = ["--json-status-fd", str(self._said.fileno()), "--seccomp", str(calls), *variables, "--"]
        try:
            self._process = Process(
                [*wrap, *options, *limited(job)], files, {"PATH": os.defpath}, extra=(self._said.fileno(), calls)
            )
        finally:
            os.close(calls)
        self.pid = self._process.pid
        self.cpu_before = 0.0

    def fileno(self) -> int:
        return self._process.fileno()

    def kill(self) -> None:
        self._process.kill()

    def finish(self) -> Ended:
        ended = self._process.finish()
        self._said.seek(0)
        said = self._said.read()
        self._said.close()
        if b'"exit-code"' not in said and not self._process.killed:
            raise SandboxError(f"the sandbox failed: bubblewrap ended with exit status {ended.status}")
        return ended


def _options(disk_mb: int, readable: Sequence[str]) -> list[str]:
    """The bubblewrap command with what everything in it sees."""
    return [
        *as_nobody(),
        *("bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv"),
        *("--proc", "/proc", "--dev", "/dev"),
        *(word for path in IN_MEMORY for word in ("--size", str(disk_mb << 20), "--tmpfs", path)),
        *(word for path in (*SYSTEM, *readable) for word in ("--ro-bind-try", path, path)),
    ]


def _closing() -> list[str]:
    """What comes after the last mount."""
    return [
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", SCRATCH, "--hostname", "sandbox"),
        *("--setenv", "PATH", os.defpath, "--setenv", "LANG", "C.UTF-8", "--setenv", "PYTHONHASHSEED", "0"),
    ]


def as_nobody() -> list[str]:
    """Root's programs run as nobody: the limit on processes does not bind root."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"] if os.geteuid() == 0 else []


def missing() -> str | None:
    """What is not installed, as a sentence."""
    for tool in ("bwrap", "prlimit", *as_nobody()[:1]):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (apt-get install bubblewrap util-linux)"
    return None
