"""The interface of a sandbox layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layer:
    """One way to run a command apart from the machine."""

    name: str
    scratch: str | None
    """Where the program sees its scratch folder; None where that is the folder itself."""
    wrap: Callable[[Path, Sequence[str], Sequence[str]], list[str]]
    """Scratch folder, folders to read, and a command, to the command that runs it inside."""
