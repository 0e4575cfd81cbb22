"""One process under limits: drained always, killed with everything it started when it goes over."""

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

KEPT = 4096
"""Bytes of output kept from its start and from its end."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    status: int
    """Exit status; −n for signal n."""
    stopped: Literal["", "wall", "output"]
    """Which limit stopped it, if one did."""
    output: bytes
    """Standard output; head and tail only, unless `whole`."""
    errors: bytes
    """Standard error; head and tail only."""
    seconds: float


def run_limited(
    command: Sequence[str],
    folder: Path,
    wall_seconds: float,
    output_bytes: int,
    stdin: str = "",
    whole: bool = False,
    pass_fds: Sequence[int] = (),
) -> Outcome:
    """Run a command in `folder` until it ends, takes too long or prints too much.

    `whole` keeps all of the standard output; `pass_fds` are open files that the command gets too.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as given:
        given.write(stdin.encode("utf-8", "surrogatepass"))
        given.seek(0)
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=pass_fds,
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": str(folder)},
        )
    out, err = bytearray(), bytearray()
    total = 0
    stopped: Literal["", "wall", "output"] = ""
    assert process.stdout is not None
    assert process.stderr is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, out)
        selector.register(process.stderr, selectors.EVENT_READ, err)
        while selector.get_map():
            left = started + wall_seconds - time.monotonic()
            if left <= 0:
                stopped = "wall"
                break
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                    continue
                total += len(chunk)
                key.data.extend(chunk)
                if not (whole and key.data is out) and len(key.data) > 4 * KEPT:
                    del key.data[KEPT:-KEPT]
            if total > output_bytes:
                stopped = "output"
                break
        if not stopped:
            try:
                process.wait(max(0.0, started + wall_seconds - time.monotonic()))
            except subprocess.TimeoutExpired:
                stopped = "wall"
    _kill_session(process)
    process.stdout.close()
    process.stderr.close()
    return Outcome(process.wait(), stopped, bytes(out), bytes(err), time.monotonic() - started)


def _kill_session(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):  # nothing is left of it
        os.killpg(process.pid, signal.SIGKILL)
