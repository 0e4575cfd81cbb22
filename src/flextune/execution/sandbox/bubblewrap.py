"""bubblewrap: namespaces of its own for everything; nothing to see but toolchains, the program and a scratch folder.

Each command gets a bubblewrap of its own, and killing that ends everything that it started. Python programs share one
for each worker: there a launcher confines each of them once more (see launcher.py).
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flextune.execution.sandbox import launcher
from flextune.execution.sandbox.launched import SYSTEM, Launcher
from flextune.execution.sandbox.layer import Ended, Files, Job, Running, SandboxError
from flextune.execution.sandbox.process import Process, limited

NAME = "bubblewrap"
PROGRAM = "/program"
SCRATCH = "/scratch"
TEMPORARY = ("/tmp", "/dev/shm", SCRATCH)


class Bubblewrap:
    """The layer. `python` runs Python programs; without it they are commands like all others."""

    name = NAME

    def __init__(self, python: str | None, disk_mb: int) -> None:
        self.python = python
        self.disk_mb = disk_mb

    def room(self, session: Path) -> "BubblewrapRoom":
        """A room with a bubblewrap for each command, and one for all its Python programs."""
        return BubblewrapRoom(self.python, self.disk_mb)


class BubblewrapRoom:
    """One worker's place."""

    def __init__(self, python: str | None, disk_mb: int) -> None:
        self._disk_mb = disk_mb
        self._launcher: Launcher | None = None
        if python is not None:
            self._launcher = Launcher(lambda command: [*self._wrap(), "--", *command], python, SCRATCH, alone=True)

    @property
    def runs_python(self) -> bool:
        """Whether a job can be the text of a Python program."""
        return self._launcher is not None

    def path(self, folder: Path) -> str:
        """Where a job sees its folder."""
        return PROGRAM

    def scratch(self) -> str:
        """Where a job starts."""
        return SCRATCH

    def start(self, job: Job, files: Files) -> Running:
        """Start a job."""
        if job.python is not None:
            assert self._launcher is not None
            return self._launcher.start(job, None, files)
        return _Wrapped(self._wrap(job), job, files)

    def usage(self) -> Path | None:
        """None: its folders are in memory, with a size."""
        return None

    def close(self) -> None:
        """Give the room back."""
        if self._launcher is not None:
            self._launcher.stop()

    def _wrap(self, job: Job | None = None) -> list[str]:
        """The bubblewrap command up to its options' end."""
        readable = job.readable if job else ()
        binds = [word for path in (*SYSTEM, *readable) for word in ("--ro-bind-try", path, path)]
        if job and job.folder:
            binds += ["--bind" if job.writable else "--ro-bind", str(job.folder), PROGRAM]
        return [
            *as_nobody(),
            *("bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv"),
            *("--proc", "/proc", "--dev", "/dev"),
            *(word for path in TEMPORARY for word in ("--size", str(self._disk_mb << 20), "--tmpfs", path)),
            *binds,
            *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", SCRATCH, "--hostname", "sandbox"),
            *("--setenv", "PATH", os.defpath, "--setenv", "LANG", "C.UTF-8"),
        ]


class _Wrapped:
    """A command in a bubblewrap of its own."""

    def __init__(self, wrap: Sequence[str], job: Job, files: Files) -> None:
        # bubblewrap writes the exit code there only if its set-up succeeded and the command was there
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        calls, writing = os.pipe()
        os.write(writing, launcher.seccomp_filter(platform.machine(), launcher.DENIED, namespaces=False))
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


def as_nobody() -> list[str]:
    """Root's programs run as nobody: the limit on processes does not bind root."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"] if os.geteuid() == 0 else []


def missing() -> str | None:
    """What is not installed, as a sentence."""
    for tool in ("bwrap", "prlimit", *as_nobody()[:1]):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (apt-get install bubblewrap util-linux)"
    return None
