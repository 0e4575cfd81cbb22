"""native: nothing but the kernel, and no program to install.

A launcher (see launcher.py) gives up what a program must not have: files by landlock, system calls by seccomp, root,
and with user namespaces also the sight of other processes, the network and shared memory.
"""

import platform
import sys
import tempfile
from pathlib import Path

from flextune.execution.sandbox import launcher
from flextune.execution.sandbox.launched import Launcher
from flextune.execution.sandbox.layer import Files, Job, Running

NAME = "native"


class Native:
    """The layer. Its launchers run on `python`, and with them Python programs."""

    name = NAME

    def __init__(self, python: str) -> None:
        self.python = python

    def room(self, session: Path) -> "NativeRoom":
        """A room with a launcher and a scratch folder."""
        return NativeRoom(self.python, session)


class NativeRoom:
    """One worker's place."""

    runs_python = True

    def __init__(self, python: str, session: Path) -> None:
        self._session = session
        self._python = python
        self._renew()

    def _renew(self) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=self._session))
        self._scratch.chmod(0o777)
        self._launcher = Launcher(lambda command: command, self._python, str(self._scratch))

    def path(self, folder: Path) -> str:
        """Where a job sees its folder: where it is."""
        return str(folder)

    def scratch(self) -> str:
        """Where a job starts; a new folder, if the last could not be cleaned."""
        if any(self._scratch.iterdir()):
            self.close()
            self._renew()
        return str(self._scratch)

    def start(self, job: Job, files: Files) -> Running:
        """Start a job."""
        return self._launcher.start(job, None if job.folder is None else str(job.folder), files)

    def usage(self) -> Path | None:
        """The scratch folder, whose size nothing else limits."""
        return self._scratch

    def close(self) -> None:
        """Give the room back."""
        self._launcher.stop()


def missing() -> str | None:
    """Why this layer cannot be here, as a sentence."""
    if not sys.platform.startswith("linux"):
        return f"landlock and seccomp are Linux's, this is {sys.platform}"
    if platform.machine() not in launcher.MACHINES:
        return f"the native layer knows {' and '.join(launcher.MACHINES)}, this is {platform.machine()}"
    if launcher.landlock_abi() == 0:
        return "the kernel has no landlock (5.13 or later, with landlock among its security modules)"
    return None
