"""A Java compiler that stays warm: most of what it costs to judge a Java program is the start of javac.

The compiler runs in a room of the sandbox like a program does, for the programs that it reads are hostile. What it
cannot answer, because it ran out of time or memory or broke down, is left to a javac of its own.
"""

import contextlib
import os
import select
import threading
from collections.abc import Sequence
from pathlib import Path

from flextune.errors import FlextuneError
from flextune.execution.sandbox import Job, Layer, Room
from flextune.execution.sandbox.layer import Files, Running
from flextune.execution.toolchain import tool_path
from flextune.languages import java

SERVER = Path(__file__).parent / java.LANGUAGE.compile_server
PATIENCE = 10.0
"""Seconds by the clock that one compilation may take here."""
FAILURES = 3
"""Failures in a row after which it is given up."""
MEMORY_MB = 384
LIMITS = {"CORE": 0, "FSIZE": 256 << 20, "NPROC": 256}
OPENED = ("jdk.compiler/com.sun.tools.javac.api=ALL-UNNAMED", "jdk.compiler/com.sun.tools.javac.main=ALL-UNNAMED")


class WarmJavac:
    """One compiler, for one program at a time; safe to use from several threads."""

    def __init__(self, layer: Layer, session: Path, readable: Sequence[str], release: int | None) -> None:
        """A compiler for sources under `session`; it starts with the first of them."""
        self._readable = readable
        self._layer = layer
        self._session = session
        self._options = " ".join(["-proc:none", *([f"--release {release}"] if release else [])])
        self._lock = threading.Lock()
        self._room: Room | None = None
        self._running: Running | None = None
        self._requests = self._answers = -1
        self._failures = 0
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
                    if self._failures == FAILURES:
                        return None
                    self._start()
                if not self.kind:
                    self.kind = self._answer()
                request = "\t".join([self._options, java.JAVATUPLES, str(source.parent), str(source)])
                os.write(self._requests, f"{request}\n".encode())
                word, _, rest = self._answer().partition(" ")
            except (FlextuneError, OSError):
                self._failures += 1
                self._stop()
                return None
            self._failures = 0
            if word == "ok":
                return ""
            if word == "errors":
                return rest.replace("\\\\", "\0").replace("\\n", "\n").replace("\\r", "\r").replace("\0", "\\")
            self._stop()  # whatever broke it shall not touch the next program
            return None

    def start(self) -> None:
        """Start the compiler, without waiting for it.

        It ends with the thread that started it: that is why it is not left to the first of the workers.
        """
        with self._lock, contextlib.suppress(FlextuneError, OSError):
            self._start()

    def close(self) -> None:
        """End the compiler."""
        with self._lock:
            self._stop()

    def _start(self) -> None:
        self._room = self._layer.room(self._session, self._readable)
        text = self._session / "compiler" / SERVER.name
        text.parent.mkdir(exist_ok=True)
        text.parent.chmod(0o755)
        text.write_bytes(SERVER.read_bytes())
        text.chmod(0o644)
        launcher = str(Path(tool_path(java.LANGUAGE.name)).parent / "java")
        opened = [word for package in OPENED for word in ("--add-exports", package)]
        command = (
            *(launcher, f"-Xmx{MEMORY_MB}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"),
            *(*opened, str(text)),
        )
        job = Job(
            command=command,
            folder=self._session,
            writable=True,
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

    def _answer(self) -> str:
        """The next line. Raises `TimeoutError` if it does not come, `OSError` if the compiler is gone."""
        line = bytearray()
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        while not line.endswith(b"\n"):
            if not poll.poll(PATIENCE * 1000):
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
        self.kind = ""
        self._requests = self._answers = -1
