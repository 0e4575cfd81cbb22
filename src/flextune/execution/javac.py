"""A Java compiler that stays warm: most of what it costs to judge a Java program is the start of javac.

The compiler runs in a room of the sandbox like a program does, for the programs that it reads are hostile. What it
cannot answer, because it ran out of time or memory or broke down, is left to a javac of its own.
"""

import contextlib
import os
import select
import threading
from pathlib import Path

from flextune.errors import FlextuneError
from flextune.execution.languages import JAVATUPLES, LANGUAGES
from flextune.execution.sandbox import Job, Layer, Room
from flextune.execution.sandbox.layer import Files, Running
from flextune.execution.toolchain import tool_path

SERVER = Path(__file__).parent / "CompileServer.java"
PATIENCE = 10.0
"""Seconds by the clock that one compilation may take here."""
MEMORY_MB = 384
LIMITS = {"CORE": 0, "FSIZE": 256 << 20, "NPROC": 256}
OPENED = ("jdk.compiler/com.sun.tools.javac.api=ALL-UNNAMED", "jdk.compiler/com.sun.tools.javac.main=ALL-UNNAMED")


class WarmJavac:
    """One compiler, for one program at a time; safe to use from several threads."""

    def __init__(self, layer: Layer, session: Path, release: int | None) -> None:
        """A compiler for sources under `session`; it starts with the first of them."""
        self._layer = layer
        self._session = session
        self._options = " ".join(["-proc:none", *([f"--release {release}"] if release else [])])
        self._lock = threading.Lock()
        self._room: Room | None = None
        self._running: Running | None = None
        self._requests = self._answers = -1
        self.kind = ""
        """`pool` or `public`: which of javac's interfaces it found."""

    def compile(self, source: Path) -> str | None:
        """Compile a source file into its folder.

        Returns:
            An empty text if it compiled, what is wrong with it if it did not, None if this compiler cannot tell.
        """
        with self._lock:
            try:
                if self._running is None:
                    self._start()
                assert self._room is not None
                folder = Path(self._room.path(self._session)) / source.parent.relative_to(self._session)
                request = "\t".join([self._options, JAVATUPLES, str(folder), str(folder / source.name)])
                os.write(self._requests, f"{request}\n".encode())
                word, _, rest = self._answer().partition(" ")
            except (FlextuneError, OSError):
                self._stop()
                return None
            if word == "ok":
                return ""
            if word == "errors":
                return rest.replace("\\\\", "\0").replace("\\n", "\n").replace("\\r", "\r").replace("\0", "\\")
            self._stop()  # whatever broke it shall not touch the next program
            return None

    def close(self) -> None:
        """End the compiler."""
        with self._lock:
            self._stop()

    def _start(self) -> None:
        self._room = self._layer.room(self._session)
        text = self._session / "compiler" / SERVER.name
        text.parent.mkdir(exist_ok=True)
        text.write_bytes(SERVER.read_bytes())
        java = str(Path(tool_path("java")).parent / "java")
        opened = [word for package in OPENED for word in ("--add-exports", package)]
        command = (
            *(java, f"-Xmx{MEMORY_MB}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"),
            *(*opened, str(Path(self._room.path(self._session)) / "compiler" / SERVER.name)),
        )
        job = Job(
            command=command,
            folder=self._session,
            writable=True,
            readable=LANGUAGES["java"].folders,
            environment={"LANG": "C.UTF-8", "HOME": self._room.scratch()},
            limits=LIMITS,
        )
        given, self._requests = os.pipe()
        self._answers, taken = os.pipe()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            self._running = self._room.start(job, Files(given, taken, nowhere))
        finally:
            for file in (given, taken, nowhere):
                os.close(file)
        self.kind = self._answer()

    def _answer(self) -> str:
        """The next line. Raises `TimeoutError` if it does not come, `OSError` if the compiler is gone."""
        line = bytearray()
        while not line.endswith(b"\n"):
            if not select.select([self._answers], [], [], PATIENCE)[0]:
                raise TimeoutError
            chunk = os.read(self._answers, 1 << 16)
            if not chunk:
                raise BrokenPipeError
            line += chunk
        return line.decode("utf-8", "replace").rstrip("\n")

    def _stop(self) -> None:
        if self._running is not None:
            self._running.kill()
            with contextlib.suppress(FlextuneError):
                self._running.finish()
        for file in (self._requests, self._answers):
            if file >= 0:
                os.close(file)
        if self._room is not None:
            self._room.close()
        self._room = self._running = None
        self._requests = self._answers = -1
