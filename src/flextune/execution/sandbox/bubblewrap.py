"""bubblewrap: its own namespaces for everything, no network, nothing to read but toolchains and the scratch folder.

Killing the bubblewrap process ends everything that the program started.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from flextune.execution.sandbox.layer import Layer

SCRATCH = "/scratch"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/alternatives", "/etc/ld.so.cache")


def _wrap(scratch: Path, readable: Sequence[str], command: Sequence[str], report: int) -> list[str]:
    binds = [word for path in (*SYSTEM, *readable) for word in ("--ro-bind-try", path, path)]
    return [
        *_as_nobody(),
        *("bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv"),
        *("--json-status-fd", str(report)),
        *binds,
        *("--proc", "/proc", "--dev", "/dev"),
        *(word for path in ("/tmp", "/dev/shm") for word in ("--size", str(64 << 20), "--tmpfs", path)),
        *("--bind", str(scratch), SCRATCH, "--chdir", SCRATCH),
        *("--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin", "--setenv", "HOME", SCRATCH),
        *("--setenv", "LANG", "C.UTF-8", "--hostname", "sandbox", "--"),
        *command,
    ]


def _as_nobody() -> list[str]:
    """Root's programs run as nobody: the limit on processes does not bind root."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"] if os.geteuid() == 0 else []


# bubblewrap writes the exit code only if its set-up succeeded and the command was there
LAYER = Layer(name="bubblewrap", scratch=SCRATCH, wrap=_wrap, started=lambda report: b'"exit-code"' in report)

PROBE = """
import os, socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2)
    sys.exit("the network is open")
except OSError:
    pass
if os.path.exists(sys.argv[2]):
    sys.exit("a file outside of the sandbox can be read")
try:
    open("/usr/flextune-probe", "w")
    sys.exit("a file outside of the sandbox can be written")
except OSError:
    pass
open("written", "w").write("yes")
"""


@cache
def problem() -> str | None:
    """Why bubblewrap cannot be used here, in a few words; None if it holds a probe that tries to get out."""
    import socket

    if sys.platform != "linux":
        return f"bubblewrap is for Linux, not {sys.platform}"
    for tool in ("bwrap", *_as_nobody()[:1]):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (apt-get install bubblewrap)"
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "secret"
        secret.write_text("secret")
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        Path(folder).chmod(0o755)
        scratch.chmod(0o777)
        python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else os.path.realpath(sys.executable)
        command = [python, "-I", "-c", PROBE, str(server.getsockname()[1]), str(secret)]
        readable = [] if python.startswith("/usr/") else [sys.base_prefix]
        done = subprocess.run(
            _wrap(scratch, readable, command, 2), capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode != 0 or not (scratch / "written").exists():
            said = (done.stderr or done.stdout).strip().splitlines()
            return f"bubblewrap does not work here ({said[-1] if said else f'exit status {done.returncode}'})"
    return None
