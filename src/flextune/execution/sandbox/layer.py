"""The interface of a sandbox layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layer:
    """One way to run a command apart from the machine."""

    name: str
    scratch: str | None
    """Where the program sees its scratch folder; None where that is the folder itself, on the open machine."""
    wrap: Callable[[Path, Sequence[str], Sequence[str], int], list[str]]
    """Scratch folder, folders to read, a command, and a file descriptor for the layer's own report, to the command that
    runs it inside."""
    started: Callable[[bytes], bool]
    """Whether the layer's own report says that the command ran. The program cannot write that report."""
