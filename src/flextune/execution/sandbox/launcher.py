"""Starts one confined program after another; runs as a small process of its own, never inside the engine.

    python3 -s -c <this file> FD SETTINGS

It reads jobs from the socket FD, one at a time, each with its open files, forks, confines the child, and lets it run a
command, or a Python program in the child itself, which saves the start of an interpreter. It answers with how the child
ended, after everything that the child had started is gone. The engine starts one for each worker: on the machine itself
(the layer `native`) or inside bubblewrap (for Python programs).

A child is confined by what the kernel lets it give up: rights on files by landlock, system calls by seccomp, its own
process namespace where that may be had, resource limits, and all privileges. It runs on whatever Python the programs
run on, so it keeps to the standard library of Python 3.8.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
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
import struct
import sys
import types
from typing import Any, NoReturn

MACHINES = ("x86_64", "aarch64")

# system calls that no program under test needs and that reach beyond it: name, number on x86_64, number on aarch64
DENIED: tuple[tuple[str, int, int], ...] = (
    ("socket", 41, 198),
    ("connect", 42, 203),
    ("bind", 49, 200),
    ("listen", 50, 201),
    ("shmget", 29, 194),
    ("semget", 64, 190),
    ("msgget", 68, 186),
    ("mq_open", 240, 180),
    ("memfd_create", 319, 279),
    ("memfd_secret", 447, 447),
    ("ptrace", 101, 117),
    ("process_vm_readv", 310, 270),
    ("process_vm_writev", 311, 271),
    ("kcmp", 312, 272),
    ("pidfd_getfd", 438, 438),
    ("unshare", 272, 97),
    ("setns", 308, 268),
    ("mount", 165, 40),
    ("umount2", 166, 39),
    ("pivot_root", 155, 41),
    ("chroot", 161, 51),
    ("open_tree", 428, 428),
    ("move_mount", 429, 429),
    ("fsopen", 430, 430),
    ("mount_setattr", 442, 442),
    ("name_to_handle_at", 303, 264),
    ("open_by_handle_at", 304, 265),
    ("bpf", 321, 280),
    ("perf_event_open", 298, 241),
    ("userfaultfd", 323, 282),
    ("io_uring_setup", 425, 425),
    ("add_key", 248, 217),
    ("request_key", 249, 218),
    ("keyctl", 250, 219),
    ("fanotify_init", 300, 262),
    ("personality", 135, 92),
    ("syslog", 103, 116),
    ("init_module", 175, 105),
    ("finit_module", 313, 273),
    ("kexec_load", 246, 104),
    ("kexec_file_load", 320, 294),
)
# only where there is no mount namespace: landlock does not know the right to change what is said about a file
METADATA: tuple[tuple[str, int, int], ...] = (
    ("fchmodat", 268, 53),
    ("fchmodat2", 452, 452),
    ("fchownat", 260, 54),
    ("utimensat", 280, 88),
    ("setxattr", 188, 5),
    ("lsetxattr", 189, 6),
    ("removexattr", 197, 14),
    ("lremovexattr", 198, 15),
)
METADATA_OLD: tuple[tuple[str, int, int], ...] = (  # these, aarch64 never had
    ("chmod", 90, -1),
    ("chown", 92, -1),
    ("lchown", 94, -1),
    ("utime", 132, -1),
    ("utimes", 235, -1),
    ("futimesat", 261, -1),
)
# only where nothing else keeps signals inside
SIGNALS: tuple[tuple[str, int, int], ...] = (
    ("kill", 62, 129),
    ("tkill", 200, 130),
    ("tgkill", 234, 131),
    ("rt_sigqueueinfo", 129, 138),
    ("rt_tgsigqueueinfo", 297, 240),
    ("pidfd_send_signal", 424, 424),
)
KILL = b"kill"
"""What the engine says to end a job."""
FAILED, PARSING, RUNNING = b"!", b"p", b"."
"""What a child says of how far it has come."""

HIGH = 512
"""Numbers of open files from here on are out of the way of a job's."""
CLONE = (56, 220)
SOCKETPAIR = (53, 199)
DATAGRAM, RAW = 2, 3
CLONE3 = 435
AUDIT_ARCH = (0xC000003E, 0xC00000B7)
X32 = 0x40000000

NEWNS, NEWUTS, NEWIPC = 0x20000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
NAMESPACES = 0x7E020000
"""All the flags of clone that make a namespace."""

MS_NOSUID, MS_NODEV, MS_BIND, MS_PRIVATE, MS_REC = 0x2, 0x4, 0x1000, 0x40000, 0x4000
MOUNT_SETATTR, AT_RECURSIVE, AT_FDCWD, MOUNT_ATTR_RDONLY = 442, 0x8000, -100, 1
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
CAPSET = (126, 91)
READ = 1 << 0 | 1 << 2 | 1 << 3
"""Landlock: execute, read a file, read a folder."""
FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
"""Landlock: what can be granted on a file that is not a folder."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
OWN = ("/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/sys/devices/system/cpu")
"""What runtimes read about the machine."""
SCOPES_FROM = 6
"""The landlock ABI that keeps signals and abstract sockets inside."""

PRELOADED = "atexit bisect collections functools heapq itertools math operator re typing"
"""Modules that many programs import. Not among them: threading and random, which do work in every child."""

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """The result of a system call, or OSError."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def seccomp_filter(machine: str, calls: tuple[tuple[str, int, int], ...], namespaces: bool) -> bytes:
    """A filter for seccomp, as classic BPF: `calls` are refused; new namespaces only pass if `namespaces`.

    Where they do not, clone3 does not exist, so that libc takes clone, whose flags can be looked at. A program that
    uses the calls of another architecture is killed.
    """
    column = MACHINES.index(machine)
    load, mask, jump_equal, jump_greater, jump_set, give = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
    allow, kill, refuse, unknown = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
    code: list[tuple[int, int, int, int]]
    code = [(load, 0, 0, 4), (jump_equal, 1, 0, AUDIT_ARCH[column]), (give, 0, 0, kill), (load, 0, 0, 0)]
    if machine == "x86_64":
        code += [(jump_greater, 0, 1, X32), (give, 0, 0, kill)]
    for call in calls:
        code += [(jump_equal, 0, 1, int(call[1 + column])), (give, 0, 0, refuse)]
    # a pair of datagram sockets could send to any socket there is; a pair of streams cannot
    code += [(jump_equal, 0, 5, SOCKETPAIR[column]), (load, 0, 0, 24), (mask, 0, 0, 0xF)]
    code += [(jump_equal, 1, 0, DATAGRAM), (jump_equal, 0, 1, RAW), (give, 0, 0, refuse), (load, 0, 0, 0)]
    if not namespaces:
        code += [(jump_equal, 0, 1, CLONE3), (give, 0, 0, unknown)]
        code += [(jump_equal, 0, 3, CLONE[column]), (load, 0, 0, 16), (jump_set, 0, 1, NAMESPACES)]
        code += [(give, 0, 0, refuse)]
    code += [(give, 0, 0, allow)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def restrict_calls(program: bytes) -> None:
    """Install a seccomp filter for this process and all that come from it."""
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    checked(libc.prctl(PR_SET_SECCOMP, 2, header, 0, 0), "seccomp")


def landlock_abi() -> int:
    """The version of landlock in this kernel; 0 where there is none."""
    return max(0, int(libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)))


def file_rules(readable: list[str], writable: list[str]) -> int:
    """A set of landlock rules: no right on files but to read (and execute) under `readable`, all under `writable`."""
    abi = landlock_abi()
    rights = (1 << (13 if abi == 1 else 14 if abi == 2 else 15 if abi < 5 else 16)) - 1
    attributes = struct.pack("<QQQ", rights, 3 if abi >= 4 else 0, 3 if abi >= SCOPES_FROM else 0)
    size = 8 if abi < 4 else 16 if abi < SCOPES_FROM else 24
    rules = checked(libc.syscall(LANDLOCK_CREATE_RULESET, attributes, size, 0), "landlock")
    for paths, granted in ((readable, READ), (writable, rights)):
        for path in paths:
            try:
                opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue  # what is not there cannot be read
            allowed = granted & rights if os.path.isdir(path) else granted & rights & FILE_RIGHTS
            rule = struct.pack("<Qi", allowed, opened)
            checked(libc.syscall(LANDLOCK_ADD_RULE, rules, 1, rule, 0), f"landlock: {path}")
            os.close(opened)
    return rules


def drop_privileges() -> None:
    """Give up every capability, for good."""
    header = struct.pack("<Ii", 0x20080522, 0)
    checked(libc.syscall(CAPSET[MACHINES.index(platform.machine())], header, bytes(24)), "capset")


def become_nobody() -> None:
    """Root runs programs as nobody: limits on processes do not bind root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # its own /proc files stay its own


def own_namespaces(scratch: str, disk_mb: int, writable: list[str]) -> bool:
    """Namespaces of its own for all but processes; false where the kernel does not let us."""
    trial = os.fork()  # half a set of namespaces cannot be given back
    if trial == 0:
        try:
            enter_namespaces(scratch, disk_mb, writable)
            checked(libc.unshare(NEWPID), "unshare")
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(trial, 0)[1] != 0:
        return False
    enter_namespaces(scratch, disk_mb, writable)
    return True


def enter_namespaces(scratch: str, disk_mb: int, writable: list[str]) -> None:
    """As the same user and group, with all privileges inside and none outside.

    Files can be read where they are, and written only under `writable` and in the scratch folder, which is a file
    system in memory with a size.
    """
    uid, gid = os.geteuid(), os.getegid()
    checked(libc.unshare(NEWUSER | NEWNS | NEWNET | NEWIPC | NEWUTS), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    checked(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount")
    for path in writable:
        checked(libc.mount(path.encode(), path.encode(), None, MS_BIND | MS_REC, None), "mount")
    options = f"size={disk_mb}m,nr_inodes=100k,mode=700".encode()
    read_only = struct.pack("<QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    checked(libc.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, read_only, 32), "mount_setattr")
    writing = struct.pack("<QQQQ", 0, MOUNT_ATTR_RDONLY, 0, 0)
    for path in writable:
        checked(libc.syscall(MOUNT_SETATTR, AT_FDCWD, path.encode(), 0, writing, 32), "mount_setattr")
    checked(libc.mount(b"scratch", scratch.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options), "mount")


class Launcher:
    """The loop over jobs."""

    def __init__(self, connection: socket.socket, settings: dict[str, Any]) -> None:
        self.connection = connection
        self.scratch = settings["scratch"]
        self.readable = settings["readable"]
        self.alone = settings["alone"]
        become_nobody()
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        writable = settings["writable"]
        self.namespaces = not self.alone and own_namespaces(self.scratch, settings["disk_mb"], writable)
        # without a namespace of its own a program's limit on processes counts all of the user's
        self.counted = 0 if self.alone or self.namespaces else processes_of_user()
        abi = landlock_abi()
        if abi == 0:
            raise OSError(errno.ENOSYS, "the kernel has no landlock")
        # what this process needs no more is given up once and for all; the rest in each child
        checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
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
            self.connection.sendall(json.dumps(answer).encode())
            if answer["last"]:
                return

    def run(self, job: dict[str, Any], files: list[int]) -> dict[str, Any]:
        """Run one job; how it ended, once it is gone."""
        stage_out, stage_in = os.pipe()
        if job["source"] and job["environment"] != dict(os.environ):
            os.environ.clear()
            os.environ.update(job["environment"])
        child = fork_namespace() if self.namespaces else os.fork()
        if child == 0:
            stage_in = fcntl.fcntl(stage_in, fcntl.F_DUPFD, HIGH)
            try:
                libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
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
        total = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        return {"status": code, "stage": stage, "cpu": usage.ru_utime + usage.ru_stime, "total": total}

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
        checked(libc.syscall(LANDLOCK_RESTRICT_SELF, rules, 0), "landlock")
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


def fork_namespace() -> int:
    """As fork, with the child the first process of a namespace, which unshare can do only once in a process."""
    number = CLONE[MACHINES.index(platform.machine())]
    return checked(ctypes.PyDLL(None, use_errno=True).syscall(number, NEWPID | signal.SIGCHLD, 0, 0, 0, 0), "clone")


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
    """The interpreter's own end: uncaught errors printed, threads waited for, exit functions called."""
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
    for finish in (wait_for_threads, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
        try:
            finish()
        except BaseException:
            status = status or 1
    return status & 0xFF


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
    connection = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    try:
        launcher = Launcher(connection, settings)
    except OSError as error:
        connection.sendall(json.dumps({"failed": error.strerror or str(error)}).encode())
        return
    connection.sendall(json.dumps({"ready": True, "namespaces": launcher.namespaces}).encode())
    launcher.serve()


if __name__ == "__main__":
    main()
