"""Sandboxes: what stands between a program that a model wrote and the machine.

A layer opens rooms; a room runs one job at a time. `choose` finds the strongest layer that holds, by trying it:

    bubblewrap  namespaces for everything, made by the program bubblewrap
    native      landlock, seccomp and what namespaces there are, made by the kernel alone
    none        nothing but limits
"""

import os
import stat
import tempfile
from functools import cache
from pathlib import Path

from flextune.errors import FlextuneError, UsageError
from flextune.execution.sandbox import bubblewrap, native, none
from flextune.execution.sandbox.layer import Job, Layer, Room, SandboxError
from flextune.execution.sandbox.probe import escapes
from flextune.languages.python import interpreter

__all__ = ["Job", "Layer", "Room", "SandboxError", "choose", "problem", "python", "tool_folders"]

LAYERS = ("bubblewrap", "native")
"""From the strongest."""


def choose(name: str = "auto", allow_unsandboxed: bool = False, disk_mb: int = 64) -> Layer:
    """The sandbox layer to use.

    Args:
        name: `bubblewrap` and `native` fail if they do not hold; `none` needs `allow_unsandboxed`; `auto` takes the
            first of bubblewrap and native that holds, and without one refuses unless `allow_unsandboxed`.
        allow_unsandboxed: Agree that the machine is open to the programs.
        disk_mb: What a program may write.
    """
    if name == "none" and not allow_unsandboxed:
        raise UsageError(
            "execution.sandbox = none opens this machine to programs that a model wrote; "
            "agree with execution.allow_unsandboxed=true in a recipe, --allow-unsandboxed elsewhere"
        )
    problems = []
    for candidate in LAYERS if name == "auto" else () if name == "none" else (name,):
        found = problem(candidate)
        if found is None:
            return _layer(candidate, disk_mb)
        problems.append(f"{candidate}: {found}")
    if problems and (name != "auto" or not allow_unsandboxed):
        raise FlextuneError(
            f"there is no sandbox for programs that a model wrote ({'; '.join(problems)}): mend that, or agree to run "
            "them without one: execution.allow_unsandboxed=true in a recipe, --allow-unsandboxed elsewhere"
        )
    return none.Unsandboxed()


@cache
def problem(name: str) -> str | None:
    """Why a layer cannot be used here, in a few words; None if it holds a probe that tries to get out."""
    found = bubblewrap.missing() if name == "bubblewrap" else native.missing()
    return found or _unreachable() or escapes(_layer(name, disk_mb=64), interpreter(), tool_folders(interpreter()))


def _unreachable() -> str | None:
    """What keeps root's programs, which run as another user, from the folder for temporary files."""
    temporary = Path(tempfile.gettempdir()).resolve()
    closed = [folder for folder in (temporary, *temporary.parents) if not folder.stat().st_mode & stat.S_IXOTH]
    if os.geteuid() or not closed:
        return None
    return f"programs run as another user than root, to whom {closed[-1]} is closed; set TMPDIR to an open folder"


def _layer(name: str, disk_mb: int) -> Layer:
    if name == "native":
        return native.Native(interpreter(), disk_mb)
    # where there is no landlock, Python programs get a bubblewrap each, as all others do
    return bubblewrap.Bubblewrap(interpreter() if native.missing() is None else None, disk_mb)


def tool_folders(tool: str) -> tuple[str, ...]:
    """What has to be readable for a tool that is not the system's."""
    return () if tool.startswith("/usr/") else (str(Path(tool).parent.parent),)
