"""The filter of system calls, as the kernel itself reads it: each attempt is made in a process that it holds."""

import platform
import subprocess
import sys

import pytest

from flextune.execution.sandbox import kernel

pytestmark = pytest.mark.skipif(platform.machine() not in kernel.MACHINES, reason="a machine without tables")

HELD = """
import fcntl, os, platform, resource, signal, socket, sys
from flextune.execution.sandbox import kernel
kernel.no_new_privileges()
calls = kernel.DENIED + (kernel.SIGNALS if {signals} else ())
kernel.restrict_calls(kernel.seccomp_filter(platform.machine(), calls, namespaces={namespaces}))
try:
    {attempt}
except PermissionError:
    print("refused")
else:
    print("done")
"""


def attempt(code, signals=False, namespaces=False):
    text = HELD.format(signals=signals, namespaces=namespaces, attempt=code)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("socket.socket()", "refused"),
        ("socket.socketpair(type=socket.SOCK_STREAM)", "done"),
        ("socket.socketpair(type=socket.SOCK_DGRAM)", "refused"),
        ("socket.socketpair(type=socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)", "refused"),
        ("resource.prlimit(0, resource.RLIMIT_CORE, (0, 0))", "done"),
        ("resource.prlimit(os.getppid(), resource.RLIMIT_CORE)", "refused"),
        ("os.setpriority(os.PRIO_PROCESS, 0, 5)", "done"),
        ("os.setpriority(os.PRIO_PROCESS, os.getppid(), 5)", "refused"),
        ("os.sched_setaffinity(0, os.sched_getaffinity(0))", "done"),
        ("os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))", "refused"),
        ("kernel.checked(kernel.libc.unshare(kernel.NEWUSER), '')", "refused"),
        ("kernel.checked(kernel.libc.shmget(0, 4096, 0o1600), '')", "refused"),
        ("kernel.checked(kernel.libc.shmctl(0, 13, bytes(256)), '')", "refused"),
        ("kernel.checked(kernel.libc.semctl(0, 0, 0), '')", "refused"),
        ("kernel.checked(kernel.libc.msgctl(0, 0, None), '')", "refused"),
        ("os.wait() if os.fork() else os._exit(0)", "done"),
        ("os.kill(os.getppid(), 0)", "done"),
        ("fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())", "done"),
    ],
)
def test_calls(code, answer):
    assert attempt(code) == answer


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("os.kill(os.getpid(), 0)", "refused"),
        ("fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())", "refused"),
        ("fcntl.fcntl(0, 10, 9)", "refused"),
        ("fcntl.fcntl(0, 15, bytes(8))", "refused"),
        ("fcntl.fcntl(0, fcntl.F_GETFL)", "done"),
        ("fcntl.fcntl(0, fcntl.F_DUPFD, 50)", "done"),
        ("os.getpid()", "done"),
    ],
)
def test_where_signals_are_not_kept_inside_none_can_be_sent(code, answer):
    assert attempt(code, signals=True) == answer


def test_a_launcher_may_still_make_process_namespaces():
    code = "kernel.checked(kernel.libc.syscall(kernel.CLONE3, None, 0), '')"
    assert "Invalid argument" in attempt(code, namespaces=True)
    assert "Function not implemented" in attempt(code, namespaces=False)
