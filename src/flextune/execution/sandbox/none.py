"""No sandbox: limits only. The program can read, write and connect as its caller can."""

from collections.abc import Sequence
from pathlib import Path

from flextune.execution.sandbox.layer import Layer


def _wrap(scratch: Path, readable: Sequence[str], command: Sequence[str], report: int) -> list[str]:
    return list(command)


LAYER = Layer(name="none", scratch=None, wrap=_wrap, started=lambda report: True)
