"""What the workers of one call share: the folder for their programs, and the compilers that stay warm."""

import itertools
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from flextune.errors import FlextuneError
from flextune.execution.javac import WarmJavac
from flextune.execution.languages import LANGUAGES
from flextune.execution.sandbox import Layer
from flextune.execution.settings import Execution
from flextune.execution.toolchain import tool_path

WORKERS_PER_COMPILER = 4
"""Workers that one warm Java compiler keeps busy: it compiles about 120 programs a second, a worker runs about 20."""

WORTH_WARMING = 4
"""Programs in a language from which on it pays."""


class Session:
    """Made for one call of the engine and closed with it."""

    def __init__(self, layer: Layer, settings: Execution, workers: int, programs: Mapping[str, int]) -> None:
        """A session for so many workers and so many programs in each language."""
        self.layer = layer
        self.settings = settings
        self.folder = Path(tempfile.mkdtemp(prefix="flextune-"))
        self.folder.chmod(0o755)
        self._programs = programs
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        compilers = -(-workers // WORKERS_PER_COMPILER)
        self._javac = [WarmJavac(layer, self.folder, settings.java_release) for _ in range(compilers)]

    def new_folder(self) -> tuple[int, Path]:
        """A number, and a folder of that number for one program."""
        number = next(self._numbers)
        folder = self.folder / str(number)
        folder.mkdir()
        folder.chmod(0o777)
        return number, folder

    def javac(self, number: int) -> WarmJavac:
        """The compiler for a program's number."""
        return self._javac[number % len(self._javac)]

    def warm(self, name: str) -> Path | None:
        """The folder with what is done once for all programs in a language; None if that is not worth it."""
        language = LANGUAGES[name]
        folder = self.folder / f"warm-{name}"
        with self._lock:
            if language.warm is None or (language.warm.options and self._programs[name] < WORTH_WARMING):
                return None
            if folder.exists():
                return folder
            folder.mkdir()
            (folder / language.warm.file).write_text(language.warm.text)
            names = {"tool": tool_path(name), "warm": str(folder)}
            command = [word.format(**names) for word in language.warm.command]
            environment = {key: value.format(**names) for key, value in language.environment.items()}
            home = {"HOME": str(folder), "PATH": os.environ.get("PATH", os.defpath)}
            done = subprocess.run(
                command, cwd=folder, env=home | environment, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise FlextuneError(f"{language.tool} does not work here: {done.stderr.strip()[-500:]}")
            return folder

    def close(self) -> None:
        """End the compilers and remove the folder."""
        for compiler in self._javac:
            compiler.close()
        remove(self.folder)


def remove(folder: Path) -> None:
    """Remove a folder, however deep and with whatever permissions."""
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError):
        subprocess.run(["chmod", "-R", "u+rwX", folder], capture_output=True, check=False)
        subprocess.run(["rm", "-rf", folder], capture_output=True, check=False)
        if os.path.lexists(folder):
            raise
