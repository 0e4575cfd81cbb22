"""Whether a process runs."""

import contextlib
from pathlib import Path


def alive(pid):
    """One that has ended, and that nobody waits for, does not run."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
