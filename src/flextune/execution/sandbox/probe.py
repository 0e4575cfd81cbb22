"""Does a layer hold? A program that tries to get out, run in it before any other.

A layer is believed because of what happens, not because its parts are there: best-effort sandboxes elsewhere have
silently kept nothing.
"""

import os
import socket
import tempfile
from pathlib import Path

from flextune.execution.sandbox.layer import Job, Layer, Room, SandboxError
from flextune.execution.sandbox.supervise import Allowance, supervise

PROBE = """
import os, socket, sys, time
port, secret, outside, engine = PLACES
def held(what, attempt):
    try:
        attempt()
    except (OSError, MemoryError):
        return
    print(what)
    sys.stdout.flush()
    os._exit(1)
held("it can connect", lambda: socket.create_connection(("127.0.0.1", port), timeout=2))
held("it can read files outside", lambda: open(secret).read())
held("it can write files outside", lambda: open(outside, "w"))
held("it can write to the system", lambda: open("/usr/flextune-probe", "w"))
held("it can send signals outside", lambda: os.kill(engine, 0))
held("it can take more memory than it may", lambda: bytearray(2 << 30))
def storm():
    waiting, end = os.pipe()
    children = 0
    try:
        for _ in range(100):
            if os.fork() == 0:
                os.close(end)
                os.read(waiting, 1)
                os._exit(0)
            children += 1
    finally:
        os.close(end)
        for _ in range(children):
            os.wait()
held("it can start more processes than it may", storm)
open("written", "w").write("yes")
if os.fork() == 0:
    os.setsid()
    time.sleep(100)
print("held")
sys.stdout.flush()
"""

LIMITS = {"AS": 1 << 30, "NPROC": 20, "FSIZE": 1 << 20, "CORE": 0, "NOFILE": 64}
ALLOWED = Allowance(cpu_seconds=20, wall_seconds=60, memory_mb=1024, disk_mb=64, output_bytes=1 << 20)


def escapes(layer: Layer, python: str, readable: tuple[str, ...]) -> str | None:
    """What a program could do in the layer that it must not, or why the layer does not work; None if it holds."""
    with (
        tempfile.TemporaryDirectory(prefix="flextune-probe-") as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        session = Path(folder)
        session.chmod(0o755)
        secret = session / "secret"
        secret.write_text("secret")
        outside = session / "outside"
        outside.mkdir(mode=0o777)
        places = (server.getsockname()[1], str(secret), str(outside / "written"), os.getpid())
        text = PROBE.replace("PLACES", repr(places))
        try:
            room = layer.room(session, readable)
            try:
                commanded = Job(command=(python, "-I", "-c", text), limits=LIMITS)
                found = _escapes(room, commanded)
                if found is None and room.runs_python:
                    with tempfile.TemporaryFile() as source:
                        source.write(text.encode())
                        source.seek(0)
                        found = _escapes(room, Job(python=source.fileno(), limits=LIMITS))
                return found
            finally:
                room.close()
        except SandboxError as error:
            return str(error)


def _escapes(room: Room, job: Job) -> str | None:
    outcome = supervise(room, job, ALLOWED)
    said = (outcome.output or outcome.errors).decode("utf-8", "replace").strip()
    if outcome.stopped or said != "held":
        return said.splitlines()[-1] if said else f"the probe ended with exit status {outcome.status}"
    return None
