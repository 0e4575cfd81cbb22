"""What the workers of one call share: the folder for their programs, and the compilers that stay warm."""

import contextlib
import itertools
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from flextune.errors import FlextuneError
from flextune.execution.javac import WarmJavac
from flextune.execution.sandbox import Layer, Room
from flextune.execution.settings import Execution
from flextune.execution.toolchain import PATH, tool_path, toolchain_folders
from flextune.languages import LANGUAGES

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
        self._programs = programs
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self.readable = tuple(path for name in sorted(programs) for path in toolchain_folders(name))
        self.folder = Path(tempfile.mkdtemp(prefix="flextune-"))
        self.folder.chmod(0o755)
        compilers = -(-workers // WORKERS_PER_COMPILER)
        release = settings.java_release
        self._compilers = [WarmJavac(layer, self.folder, self.readable, release) for _ in range(compilers)]
        if any(count > 1 and LANGUAGES[name].compile_server for name, count in programs.items()):
            for compiler in self._compilers:
                compiler.start()

    def room(self) -> Room:
        """A room for one worker."""
        return self.layer.room(self.folder, self.readable)

    def new_folder(self) -> tuple[int, Path]:
        """A number, and a folder of that number for one program."""
        number = next(self._numbers)
        folder = self.folder / str(number)
        folder.mkdir()
        folder.chmod(0o777)
        return number, folder

    def compiler(self, number: int) -> WarmJavac:
        """The compiler that stays warm, for a program's number."""
        return self._compilers[number % len(self._compilers)]

    def warm(self, name: str) -> Path | None:
        """The folder with what is done once for all programs in a language; None if that is not worth it."""
        language = LANGUAGES[name]
        folder = self.folder / f"warm-{name}"
        with self._lock:
            if language.warm is None or self._programs[name] < WORTH_WARMING:
                return None
            if folder.exists():
                return folder
            folder.mkdir()
            folder.chmod(0o755)
            source = folder / language.warm.file
            source.write_text(language.warm.text)
            source.chmod(0o644)
            names = {"tool": tool_path(name), "warm": str(folder)}
            command = [word.format(**names) for word in language.warm.command]
            environment = {key: value.format(**names) for key, value in language.environment.items()}
            home = {"HOME": str(folder), "PATH": PATH}
            done = subprocess.run(
                command, cwd=folder, env=home | environment, capture_output=True, text=True, check=False, umask=0o022
            )
            if done.returncode != 0:
                raise FlextuneError(f"{language.tool} does not work here: {done.stderr.strip()[-500:]}")
            return folder

    def close(self) -> None:
        """End the compilers and remove the folder."""
        for compiler in self._compilers:
            compiler.close()
        remove(self.folder)


def remove(folder: Path) -> None:
    """Remove a folder, however deep and with whatever permissions."""
    for _ in range(20):  # what was killed a moment ago may still be writing there
        with contextlib.suppress(OSError, RecursionError):
            shutil.rmtree(folder)
            return
        subprocess.run(["chmod", "-R", "u+rwX", folder], capture_output=True, check=False)
        if subprocess.run(["rm", "-rf", folder], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
