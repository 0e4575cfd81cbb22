"""A command as a process of the machine's, with its resource limits."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from flextune.execution.sandbox.layer import Ended, Files, Job


def limited(job: Job) -> list[str]:
    """The job's command, under its resource limits."""
    options = [
        f"--{name.lower()}={value}:{value + 1}" if name == "CPU" else f"--{name.lower()}={value}"
        for name, value in job.limits.items()
    ]
    return ["prlimit", *options, "--", *job.command]


class Process:
    """A process in a session of its own."""

    def __init__(
        self,
        command: Sequence[str],
        files: Files,
        environment: dict[str, str],
        extra: Sequence[int] = (),
        cwd: str = "/",
    ) -> None:
        """Start it. `extra` are open files that it gets too."""
        report = () if files.report is None else (files.report,)
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=files.stdin,
            stdout=files.stdout,
            stderr=files.stderr,
            start_new_session=True,
            pass_fds=(*report, *extra),
            env=environment,
        )
        self.pid = self._process.pid
        self.cpu_before = 0.0
        self.killed = False
        self._ended = os.pidfd_open(self.pid)

    def fileno(self) -> int:
        """A file that can be read once the process has ended."""
        return self._ended

    def kill(self) -> None:
        """End it and its session."""
        self.killed = True
        self._kill()

    def finish(self) -> Ended:
        """How it ended, waited for; what is left of its session is ended too."""
        _, status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code
        os.close(self._ended)
        self._kill()
        return Ended(code if code >= 0 else 128 - code, usage.ru_utime + usage.ru_stime)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left of it
            os.killpg(self.pid, signal.SIGKILL)
