"""No sandbox: limits only. The program can read, write and connect as its caller can."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flextune.execution.sandbox.layer import Files, Job, Running
from flextune.execution.sandbox.process import Process, limited

NAME = "none"


class Unsandboxed:
    """The layer that is none."""

    name = NAME

    def room(self, session: Path, readable: Sequence[str]) -> "UnsandboxedRoom":
        """A scratch folder on the open machine."""
        return UnsandboxedRoom(session)


class UnsandboxedRoom:
    """One worker's place."""

    runs_python = False
    report_number: int | None = None

    def __init__(self, session: Path) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=session))

    def scratch(self) -> str:
        """Where a job starts."""
        return str(self._scratch)

    def start(self, job: Job, files: Files) -> Running:
        """Start a job. The limit on processes would count the caller's processes too, so it is left out."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(exist_ok=True)
        limits = {name: value for name, value in job.limits.items() if name != "NPROC"}
        command = limited(Job(command=job.command, limits=limits))
        return Process(command, files, job.environment, cwd=str(self._scratch))

    def usage(self) -> Path | None:
        """The scratch folder, whose size nothing else limits."""
        return self._scratch

    def close(self) -> None:
        """Give the room back."""
