"""The interface of a sandbox layer: a layer opens rooms, and a room runs one job at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from flextune.errors import FlextuneError

SCRATCH = "/scratch"
"""Where a job may write, in a room with a root of its own."""
IN_MEMORY = ("/tmp", "/dev/shm", SCRATCH)
"""File systems in memory of such a room."""


class SandboxError(FlextuneError):
    """The sandbox itself failed: never a verdict about the program in it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command, or the text of a Python program, and what it may have."""

    command: tuple[str, ...] = ()
    python: int | None = None
    """An open file with the text of a Python program, for rooms that run Python themselves."""
    folder: Path | None = None
    """The folder with the program, which the job can read."""
    writable: bool = False
    """Whether the job can write there too, as compilers do."""
    readable: tuple[str, ...] = ()
    """What the job can read besides."""
    environment: dict[str, str] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    """Resource limits by their names in POSIX without RLIMIT_, for each process."""


@dataclass(frozen=True)
class Files:
    """The open files of a job."""

    stdin: int
    stdout: int
    stderr: int
    report: int | None = None


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    status: int
    """Exit status; 128 + n for signal n."""
    cpu_seconds: float
    compiled: bool = True
    """False if a Python program could not be compiled."""


class Running(Protocol):
    """A job that has been started."""

    pid: int
    """The process that it and all that it starts come from."""
    cpu_before: float
    """Processor time that this process had used before the job."""

    def fileno(self) -> int:
        """A file that can be read once the job has ended."""

    def kill(self) -> None:
        """End the job and everything that it started."""

    def finish(self) -> Ended:
        """How it ended, waited for. Raises `SandboxError` if it never started."""


class Room(Protocol):
    """A place for one job at a time, kept for the next."""

    @property
    def report_number(self) -> int | None:
        """The number under which a job has the report; None where it is the engine's."""

    @property
    def runs_python(self) -> bool:
        """Whether a job can be the text of a Python program."""

    def scratch(self) -> str:
        """Where a job sees the folder that it starts in: empty, and its own to write."""

    def start(self, job: Job, files: Files) -> Running:
        """Start a job. Raises `SandboxError`."""

    def usage(self) -> Path | None:
        """The scratch folder as the engine sees it, where nothing else limits its size."""

    def close(self) -> None:
        """Give the room back."""


class Layer(Protocol):
    """One way to keep programs apart from the machine."""

    @property
    def name(self) -> str:
        """What it is called in settings and files."""

    def room(self, session: Path, readable: Sequence[str]) -> Room:
        """A room whose jobs have their folders under `session`, and can read `readable` and the system's toolchains."""
