"""Starts one confined program after another; runs as a small process of its own, never inside the engine.

    python3 -s -c <kernel.py and this file> FD SETTINGS

It reads jobs from the socket FD, one at a time, each with its open files, forks, confines the child, and lets it run a
command, or a Python program in the child itself, which saves the start of an interpreter. It answers with how the child
ended, after everything that the child had started is gone. The engine starts two for each worker, one for programs and
one for compilers: on the machine itself (the layer `native`) or inside bubblewrap.

A child is confined by what the kernel lets it give up: rights on files by landlock, system calls by seccomp, its own
process namespace where that may be had, resource limits, and all privileges. It runs on whatever Python the programs
run on, so it keeps to the standard library of Python 3.9.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import gc
import heapq
import json
import os
import platform
import resource
import select
import shutil
import signal
import socket
import sys
import types
from typing import Any, NoReturn

from flextune.execution.sandbox.kernel import (
    DENIED,
    DEVICES,
    METADATA,
    METADATA_OLD,
    OWN,
    SCOPES_FROM,
    SIGNALS,
    adopt_orphans,
    become_nobody,
    die_with_parent,
    drop_privileges,
    file_rules,
    fork_namespace,
    landlock_abi,
    no_new_privileges,
    own_namespaces,
    restrict_calls,
    restrict_to,
    seccomp_filter,
)

KILL = b"kill"
"""What the engine says to end a job."""
FAILED, PARSING, RUNNING = b"!", b"p", b"."
"""What a child says of how far it has come."""

HIGH = 64
"""Numbers of open files from here on are out of the way of a job's."""

PRELOADED = "atexit bisect collections functools heapq itertools math operator re typing"
"""Modules that many programs import. Not among them: threading and random, which do work in every child."""


class Launcher:
    """The loop over jobs."""

    def __init__(self, connection: socket.socket, settings: dict[str, Any]) -> None:
        self.connection = connection
        self.scratch = settings["scratch"]
        self.readable = settings["readable"]
        self.alone = settings["alone"]
        become_nobody()
        adopt_orphans()
        writable = settings["writable"]
        self.namespaces = not self.alone and own_namespaces(self.scratch, settings["disk_mb"], writable)
        abi = landlock_abi()
        if abi == 0:
            raise OSError(errno.ENOSYS, "the kernel has no landlock")
        # what this process needs no more is given up once and for all; the rest in each child
        no_new_privileges()
        machine = platform.machine()
        restrict_calls(seccomp_filter(machine, DENIED, namespaces=self.namespaces))
        if not self.namespaces:
            drop_privileges()
        calls = () if self.namespaces or abi >= SCOPES_FROM else SIGNALS
        if not self.alone and not self.namespaces and not writable:
            calls += METADATA + (METADATA_OLD if machine == "x86_64" else ())
        self.filter = seccomp_filter(machine, calls, namespaces=False) if calls or self.namespaces else b""
        rules = file_rules([*self.readable, *OWN], [self.scratch, *DEVICES])
        self.python_rules = fcntl.fcntl(rules, fcntl.F_DUPFD_CLOEXEC, HIGH)
        for name in PRELOADED.split():
            __import__(name)
        warm_up()
        gc.freeze()  # fewer pages to copy in each child

    def serve(self) -> None:
        """Answer jobs until the engine closes the connection."""
        while True:
            data, files = receive(self.connection)
            if not data:
                return
            if data == KILL:
                continue  # it came when the job had ended
            answer = self.run(json.loads(data), files)
            answer["last"] = not clean(self.scratch)  # the engine starts another
            answer["total"] = cpu_seconds()
            self.connection.sendall(json.dumps(answer).encode())
            if answer["last"]:
                return

    def run(self, job: dict[str, Any], files: list[int]) -> dict[str, Any]:
        """Run one job; how it ended, once it is gone."""
        stage_out, stage_in = os.pipe()
        if job["source"] and job["environment"] != dict(os.environ):
            os.environ.clear()
            os.environ.update(job["environment"])
        # without a namespace of its own a program's limit on processes counts all of the user's
        self.counted = 0 if self.alone or self.namespaces else processes_of_user()
        child = fork_namespace() if self.namespaces else os.fork()
        if child == 0:
            stage_in = fcntl.fcntl(stage_in, fcntl.F_DUPFD, HIGH)
            try:
                die_with_parent()
                if self.namespaces:
                    guard_namespace()
                self.confine(job, files, stage_in)
            except BaseException as error:
                with contextlib.suppress(OSError):
                    os.write(stage_in, FAILED + str(error).encode("utf-8", "replace")[:1000])
            finally:
                os._exit(1)
        os.close(stage_in)
        for file in files:
            os.close(file)
        self.wait(child)
        _, status, usage = os.wait4(child, 0)
        self.sweep()
        stage = os.read(stage_out, 2000).decode("utf-8", "replace")
        os.close(stage_out)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        return {"status": code, "stage": stage, "cpu": usage.ru_utime + usage.ru_stime}

    def wait(self, child: int) -> None:
        """Until the job ends, or the engine wants it to or is gone: then it is killed."""
        ended = os.pidfd_open(child)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(self.connection, select.POLLIN)
        if any(file != ended for file, _ in poll.poll()):
            os.kill(child, signal.SIGKILL)
        os.close(ended)

    def sweep(self) -> None:
        """End what the program left, and wait until it is gone."""
        while True:
            if not self.namespaces:  # a process namespace has ended it already
                self.kill_rest()
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return

    def kill_rest(self) -> None:
        """End all that came from this process, or all that there is where nothing else is."""
        for pid in [-1] if self.alone else descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def confine(self, job: dict[str, Any], files: list[int], stage: int) -> NoReturn:
        """Give everything up, then run; in the child, and without return."""
        os.setsid()
        # first out of the way of the numbers, then onto them
        high = [fcntl.fcntl(file, fcntl.F_DUPFD, HIGH) for file in files]
        keep = {stage, *job["numbers"]}
        for position, number in enumerate(job["numbers"]):
            os.dup2(high[position], number)
        close_others({*keep, self.python_rules})
        os.chdir(self.scratch)
        limits = job["limits"]
        for name, value in limits.items():
            if name == "NPROC":
                value += self.counted
            ceiling = value + 1 if name == "CPU" else value
            resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, ceiling))
        if self.namespaces:
            drop_privileges()
        rules = self.python_rules if job["source"] and not job["readable"] else self.rules(job)
        restrict_to(rules)
        os.close(rules)
        if self.filter:
            restrict_calls(self.filter)
        if job["source"]:
            run_python(stage, job["source"])
        os.set_inheritable(stage, False)
        os.write(stage, RUNNING)
        os.execvpe(job["command"][0], job["command"], job["environment"])

    def rules(self, job: dict[str, Any]) -> int:
        """What a job may read and write."""
        program = [job["program"]] if job["program"] else []
        readable = [*self.readable, *job["readable"], *OWN, "/proc/self", *([] if job["writable"] else program)]
        return file_rules(readable, [self.scratch, *DEVICES, *(program if job["writable"] else [])])


def warm_up() -> None:
    """Compile something, for what a compiler does at its first time not to be done in every child."""
    with open(str(heapq.__file__), encoding="utf-8") as file:
        compile(file.read(), "heapq.py", "exec")


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One message and the open files that came with it."""
    fds: array.array[int] = array.array("i")
    data, ancillary, _, _ = connection.recvmsg(1 << 17, socket.CMSG_SPACE(8 * fds.itemsize))
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)


def close_others(keep: set[int]) -> None:
    """Close every file but these."""
    last = -1
    for number in (*sorted(keep), 1 << 16):
        if number > last + 1:  # an empty range would be taken for all of them
            os.closerange(last + 1, number)
        last = number


def guard_namespace() -> None:
    """In the first process of a namespace: wait for the program, which is the second, and end as it did.

    When the first process ends, the kernel ends all the others.
    """
    program = os.fork()
    if program == 0:
        return
    while True:
        pid, status = os.wait()
        if pid == program:
            os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def run_python(stage: int, number: int) -> NoReturn:
    """Run the Python program in the open file `number`, as `python program.py` would."""
    source = os.read(number, os.fstat(number).st_size)
    os.close(number)
    sys.argv[:] = ["program.py"]
    sys.path[:] = [path for path in sys.path if path]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.write(stage, PARSING)
    try:
        code = compile(source, "program.py", "exec", dont_inherit=True)
    except BaseException as error:
        sys.excepthook(type(error), error.with_traceback(None), None)
        sys.stderr.flush()
        os._exit(1)
    del source
    os.write(stage, RUNNING)
    os.close(stage)
    main = types.ModuleType("__main__")
    main.__dict__["__file__"] = "program.py"
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main
    os._exit(run_main(code, main.__dict__))


def run_main(code: types.CodeType, names: dict[str, Any]) -> int:
    """The interpreter's own end: uncaught errors printed, threads waited for, exit functions called, streams flushed.

    As there, what fails in exit functions changes nothing, closed streams are passed over, and 120 is the status where
    what was printed cannot be written.
    """
    import atexit

    status = 0
    try:
        exec(code, names)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if status and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        status = 1
        trace = error.__traceback__
        shown = error.with_traceback(trace.tb_next if trace else None)  # without this function's frame
        sys.excepthook(type(shown), shown, shown.__traceback__)
    threading = sys.modules.get("threading")
    wait_for_threads = vars(threading)["_shutdown"] if threading else bool
    for finish in (wait_for_threads, atexit._run_exitfuncs):
        with contextlib.suppress(BaseException):
            finish()
    for name in ("stdout", "stderr"):
        try:
            stream = getattr(sys, name, None)
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except BaseException:
            status = 120
    return status & 0xFF


def cpu_seconds() -> float:
    """Processor time of this process and of all that it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def clean(folder: str) -> bool:
    """Empty a folder, and say whether that could be done, whatever the rights that it was left with."""
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
    try:
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
    except (OSError, RecursionError):
        return False
    return True


def descendants(pid: int) -> list[int]:
    """Processes that come from a process, as far as they have not been orphaned to someone else."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children") as file:
                    children = [int(word) for word in file.read().split()]
                found += children
                waiting += children
    return found


def processes_of_user() -> int:
    """Threads that run as this user, over the whole machine."""
    count = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat("/proc/" + name).st_uid == os.geteuid():
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


def main() -> None:
    """Serve the connection whose number stands on the command line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    connection = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    try:
        launcher = Launcher(connection, settings)
    except OSError as error:
        connection.sendall(json.dumps({"failed": error.strerror or str(error)}).encode())
        return
    connection.sendall(json.dumps({"namespaces": launcher.namespaces, "total": cpu_seconds()}).encode())
    launcher.serve()


if __name__ == "__main__":
    main()
