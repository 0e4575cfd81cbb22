"""native: nothing but the kernel, and no program to install.

A launcher (see launcher.py) gives up what a program must not have: files by landlock, system calls by seccomp, root,
and with user namespaces also the sight of other processes, the network and shared memory.
"""

import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flextune.execution.sandbox import kernel
from flextune.execution.sandbox.launched import COMPILER_DISK_MB, REPORT, Launcher
from flextune.execution.sandbox.layer import Files, Job, Running

NAME = "native"


class Native:
    """The layer. Its launchers run on `python`, and with them Python programs."""

    name = NAME

    def __init__(self, python: str, disk_mb: int) -> None:
        self.python = python
        self.disk_mb = disk_mb

    def room(self, session: Path, readable: Sequence[str]) -> "NativeRoom":
        """A room with a launcher for programs, one for compilers, and a scratch folder."""
        return NativeRoom(self.python, session, self.disk_mb, readable)


class NativeRoom:
    """One worker's place."""

    runs_python = True
    report_number: int | None = REPORT

    def __init__(self, python: str, session: Path, disk_mb: int, readable: Sequence[str]) -> None:
        self._readable = readable
        self._session = session
        self._python = python
        self._disk_mb = disk_mb
        self._renew()

    def _renew(self) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=self._session))
        self._scratch.chmod(0o777)
        self._programs = self._launcher(self._disk_mb)
        self._compilers = self._launcher(COMPILER_DISK_MB, str(self._session))

    def _launcher(self, disk_mb: int, *writable: str) -> Launcher:
        scratch = str(self._scratch)
        return Launcher(list, self._python, scratch, self._readable, alone=False, disk_mb=disk_mb, writable=writable)

    def scratch(self) -> str:
        """Where a job starts; a new folder, if the last could not be cleaned."""
        if any(self._scratch.iterdir()):
            self.close()
            self._renew()
        return str(self._scratch)

    def start(self, job: Job, files: Files) -> Running:
        """Start a job."""
        return (self._compilers if job.writable else self._programs).start(job, files)

    def usage(self) -> Path | None:
        """The scratch folder, if nothing else limits its size."""
        return None if self._programs.namespaces else self._scratch

    def close(self) -> None:
        """Give the room back."""
        self._programs.stop()
        self._compilers.stop()


def missing() -> str | None:
    """Why this layer cannot be here, as a sentence."""
    if not sys.platform.startswith("linux"):
        return f"landlock and seccomp are Linux's, this is {sys.platform}"
    if platform.machine() not in kernel.MACHINES:
        return f"the native layer knows {' and '.join(kernel.MACHINES)}, this is {platform.machine()}"
    if kernel.landlock_abi() == 0:
        return "the kernel has no landlock (5.13 or later, with landlock among its security modules)"
    return None
