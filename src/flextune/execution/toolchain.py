"""Which toolchains are here, and in which versions."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from flextune.errors import FlextuneError
from flextune.execution import sandbox
from flextune.languages import LANGUAGES

PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where programs find commands."""


@cache
def find_tool(name: str) -> Path | None:
    """The toolchain's executable; None if it is missing.

    Programs run as nobody where the caller is root: a toolchain in root's home does not count then.
    """
    return _find(LANGUAGES[name].tool)


def _find(tool: str) -> Path | None:
    for folder in (*os.environ.get("PATH", "").split(os.pathsep), *PATH.split(os.pathsep)):
        found = shutil.which(tool, path=folder) if folder else None
        if found is None:
            continue
        path, real = Path(found), Path(found).resolve()
        if path.is_relative_to("/usr"):  # by the name that it was called by: some tools look at it
            return path
        if real.name == Path(tool).name and (os.geteuid() != 0 or _open_to_all(real)):  # a shim would need its home
            return real
    return None


def _open_to_all(path: Path) -> bool:
    return all(place.stat().st_mode & 0o001 for place in (path, *path.parents))


def tool_path(name: str) -> str:
    """The toolchain's executable. Raises `FlextuneError` if it is missing."""
    tool = find_tool(name)
    if tool is None:
        language = LANGUAGES[name]
        raise FlextuneError(f"{language.tool} is missing, which judges programs in {name}: {language.install}")
    return str(tool)


def toolchain_folders(name: str) -> tuple[str, ...]:
    """What a toolchain reads outside of the system's own folders."""
    tool = tool_path(name)
    return (*LANGUAGES[name].folders, *sandbox.tool_folders(tool))


@cache
def tool_version(name: str) -> str | None:
    """The first line that the toolchain prints about itself; None if it is missing."""
    tool = find_tool(name)
    if tool is None:
        return None
    done = subprocess.run(
        [tool, *LANGUAGES[name].version], capture_output=True, text=True, errors="replace", check=False
    )
    return next(iter((done.stdout or done.stderr).strip().splitlines()), f"exit status {done.returncode}")


def check_languages(names: set[str]) -> None:
    """Stop before anything runs if a language is unknown or its toolchain is missing."""
    for name in sorted(names):
        if name not in LANGUAGES:
            raise FlextuneError(f"programs in {name} cannot be judged; there are {', '.join(LANGUAGES)}")
        tool_path(name)
        for tool in LANGUAGES[name].needs:
            if shutil.which(tool, path=PATH) is None:
                raise FlextuneError(f"{tool} is missing, which judges programs in {name}: {LANGUAGES[name].install}")


def missing_parts(names: set[str], programs: list[str]) -> str | None:
    """A library that some programs need and that is not there, as a sentence."""
    for name in sorted(names):
        for library in LANGUAGES[name].libraries:
            if not Path(library.path).exists() and any(library.used_by in text for text in programs):
                return library.missing
    return None
