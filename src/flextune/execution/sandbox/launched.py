"""The engine's end of a launcher (see launcher.py): starts it, and gives it one job at a time."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flextune.execution.sandbox import launcher
from flextune.execution.sandbox.layer import Ended, Files, Job, SandboxError


def _source() -> str:
    """kernel.py and launcher.py as one text: what runs on the system's Python cannot import from here."""
    folder = Path(__file__).parent
    texts = [(folder / name).read_text(encoding="utf-8") for name in ("kernel.py", "launcher.py")]
    ours = re.compile(r"^from (?:__future__|flextune\S*) import (?:\(.*?^\)|[^\n]*)\n", re.MULTILINE | re.DOTALL)
    return "\n".join(["from __future__ import annotations", *(ours.sub("", text) for text in texts)])


SOURCE = _source()
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"),
    *("/etc/alternatives", "/etc/ld.so.cache", "/etc/ssl/openssl.cnf"),
)
"""What every program can read."""
KILL = launcher.KILL
REPORT, PYTHON = 3, 4
"""The numbers under which a job has the report and the text of its Python program."""
COMPILER_DISK_MB = 1024
"""The size of the scratch folder of compilers."""
PARSING, RUNNING = launcher.PARSING.decode(), launcher.RUNNING.decode()
ANSWER_SECONDS = 60
"""How long a launcher may take to clean up after a job."""


class Launcher:
    """A launcher process; after a job that left what cannot be removed, the next job gets a new one."""

    def __init__(
        self,
        wrap: Callable[[Sequence[str]], Sequence[str]],
        python: str,
        scratch: str,
        readable: Sequence[str],
        *,
        alone: bool,
        disk_mb: int = 0,
        writable: Sequence[str] = (),
    ) -> None:
        """A launcher that is started when the first job comes.

        Args:
            wrap: The launcher's command to the command that starts it.
            python: The interpreter that runs it, and with it Python programs.
            scratch: The scratch folder as the launcher sees it.
            readable: What jobs can read besides the system.
            alone: Whether there is nothing around it but its jobs, in namespaces that they share.
            disk_mb: The size of the scratch folder, if it is not alone.
            writable: Where some jobs can write besides.
        """
        self._wrap = wrap
        self._python = python
        self._settings = json.dumps(
            {
                "scratch": scratch,
                "readable": [*SYSTEM, *readable],
                "alone": alone,
                "disk_mb": disk_mb,
                "writable": list(writable),
            }
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self.total_cpu = 0.0
        self.namespaces = False
        """Whether its jobs have namespaces of their own, and the scratch folder its size."""

    def start(self, job: Job, files: Files) -> "Launched":
        """Give the launcher a job."""
        connection = self._ready()
        more = {REPORT: files.report, PYTHON: job.python}
        sent = {0: files.stdin, 1: files.stdout, 2: files.stderr}
        sent |= {number: file for number, file in more.items() if file is not None}
        message = {
            "command": job.command,
            "source": 0 if job.python is None else PYTHON,
            "program": str(job.folder) if job.folder else "",
            "writable": job.writable,
            "readable": job.readable,
            "environment": job.environment,
            "limits": job.limits,
            "numbers": list(sent),
        }
        try:
            socket.send_fds(connection, [json.dumps(message).encode()], list(sent.values()))
        except OSError as error:
            self.stop()
            raise SandboxError(f"the sandbox failed: its launcher is gone ({error})") from None
        return Launched(self)

    def receive(self) -> dict[str, Any]:
        """The launcher's next message."""
        assert self._connection is not None
        data = self._connection.recv(1 << 16)
        if not data:
            raise OSError("no answer")
        answer: dict[str, Any] = json.loads(data)
        return answer

    def _ready(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        if self._connection is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            command = self._wrap([self._python, "-s", "-c", SOURCE, str(theirs.fileno()), self._settings])
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env={"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
                start_new_session=True,
            )
            theirs.close()
            ours.settimeout(ANSWER_SECONDS)
            self._connection = ours
            try:
                answer = self.receive()
            except OSError:
                assert self._process.stderr is not None
                self._process.kill()
                said = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
                answer = {"failed": said[-1] if said else "it does not start"}
            if "failed" in answer:
                self.stop()
                raise SandboxError(f"the sandbox failed: {answer['failed']}")
            self.total_cpu = answer["total"]
            self.namespaces = answer["namespaces"]
        return self._connection

    @property
    def pid(self) -> int:
        """The process that everything comes from."""
        assert self._process is not None
        return self._process.pid

    @property
    def connection(self) -> socket.socket:
        """The engine's end."""
        assert self._connection is not None
        return self._connection

    def stop(self) -> None:
        """End the launcher and all below it."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            assert self._process.stderr is not None
            self._process.stderr.close()
        self._process = self._connection = None


class Launched:
    """A job of a launcher."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._killed = False
        self.pid = launcher.pid
        self.cpu_before = launcher.total_cpu

    def fileno(self) -> int:
        """The connection: it can be read when the job has ended."""
        return self._launcher.connection.fileno()

    def kill(self) -> None:
        """Have the launcher end the job."""
        self._killed = True
        with contextlib.suppress(OSError):
            self._launcher.connection.send(KILL)

    def finish(self) -> Ended:
        """How the job ended."""
        try:
            answer = self._launcher.receive()
        except OSError as error:
            self._launcher.stop()
            raise SandboxError(f"the sandbox failed: its launcher is gone ({error})") from None
        self._launcher.total_cpu = answer["total"]
        if answer["last"]:
            self._launcher.stop()
        stage = answer["stage"]
        if not (self._killed or stage.startswith((RUNNING, PARSING))):
            raise SandboxError(f"the sandbox failed: {stage.lstrip('!') or 'the program was never started'}")
        return Ended(answer["status"], answer["cpu"], compiled=RUNNING in stage)
