"""What the kernel lets a process give up: files by landlock, calls by seccomp, sight by namespaces, and privileges.

There are libraries for landlock and for seccomp, but young ones, and none that the system's own Python could import
where programs are judged; so this is the kernel's interface itself, from the manual pages landlock(7), seccomp(2),
namespaces(7), mount_setattr(2) and capabilities(7). Like launcher.py, whose first half it is, it keeps to the standard
library of Python 3.9.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct

MACHINES = ("x86_64", "aarch64")

# system calls that no program under test needs and that reach beyond it: name, number on x86_64, number on aarch64
DENIED: tuple[tuple[str, int, int], ...] = (
    ("socket", 41, 198),
    ("connect", 42, 203),
    ("bind", 49, 200),
    ("listen", 50, 201),
    ("shmget", 29, 194),
    ("shmat", 30, 196),
    ("shmctl", 31, 195),
    ("semget", 64, 190),
    ("semop", 65, 193),
    ("semctl", 66, 191),
    ("semtimedop", 220, 192),
    ("msgget", 68, 186),
    ("msgsnd", 69, 189),
    ("msgrcv", 70, 188),
    ("msgctl", 71, 187),
    ("mq_open", 240, 180),
    ("mq_unlink", 241, 181),
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
    ("setxattr", 188, 5),  # what is said about the room itself would stay there for the next program
    ("lsetxattr", 189, 6),
    ("fsetxattr", 190, 7),
    ("setxattrat", 463, 463),
)
# system calls that a program may use on itself, and not on others: which argument must be 0
ON_ITSELF: tuple[tuple[str, int, int, int], ...] = (
    ("prlimit64", 302, 261, 0),
    ("sched_setaffinity", 203, 122, 0),
    ("sched_setscheduler", 144, 119, 0),
    ("sched_setparam", 142, 118, 0),
    ("sched_setattr", 314, 274, 0),
    ("setpriority", 141, 140, 1),
    ("ioprio_set", 251, 30, 1),
)
FCNTL, SIGNALLING = (72, 25), (8, 10, 15)
"""fcntl, and its commands that name who gets a signal, and which."""
# only where there is no mount namespace: landlock does not know the right to change what is said about a file
METADATA: tuple[tuple[str, int, int], ...] = (
    ("truncate", 76, 45),  # landlock knows this one since its third version
    ("fchmodat", 268, 53),
    ("fchmodat2", 452, 452),
    ("fchownat", 260, 54),
    ("utimensat", 280, 88),
    ("removexattr", 197, 14),
    ("lremovexattr", 198, 15),
    ("removexattrat", 466, 466),
    ("file_setattr", 469, 469),
)
METADATA_OLD: tuple[tuple[str, int, int], ...] = (  # aarch64 never had these
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
    load, mask, give = 0x20, 0x54, 0x06
    jump, jump_equal, jump_greater, jump_set = 0x05, 0x15, 0x35, 0x45
    allow, kill, refuse, unknown = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
    code: list[tuple[int, int, int, int]]
    code = [(load, 0, 0, 4), (jump_equal, 1, 0, AUDIT_ARCH[column]), (give, 0, 0, kill), (load, 0, 0, 0)]
    if machine == "x86_64":
        code += [(jump_greater, 0, 1, X32), (give, 0, 0, kill)]
    for call in calls:
        code += [(jump_equal, 0, 1, int(call[1 + column])), (give, 0, 0, refuse)]
    for own in ON_ITSELF:
        code += [(jump_equal, 0, 4, int(own[1 + column])), (load, 0, 0, 16 + 8 * own[3])]
        code += [(jump_equal, 1, 0, 0), (give, 0, 0, refuse), (load, 0, 0, 0)]
    if SIGNALS[0] in calls:
        code += [(jump_equal, 0, 6, FCNTL[column]), (load, 0, 0, 24)]
        code += [(jump_equal, 3 - position, 0, command) for position, command in enumerate(SIGNALLING)]
        code += [(jump, 0, 0, 1), (give, 0, 0, refuse), (load, 0, 0, 0)]
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


def restrict_to(rules: int) -> None:
    """Give up all rights on files that a set of rules does not grant."""
    checked(libc.syscall(LANDLOCK_RESTRICT_SELF, rules, 0), "landlock")


def die_with_parent() -> None:
    """Have this process ended when the one that forked it ends."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of what descendants leave behind."""
    checked(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")


def no_new_privileges() -> None:
    """No program that is run from here on gets more rights than this process has; seccomp and landlock ask for it."""
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


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


def fork_namespace() -> int:
    """As fork, with the child the first process of a namespace, which unshare can do only once in a process."""
    number = CLONE[MACHINES.index(platform.machine())]
    return checked(ctypes.PyDLL(None, use_errno=True).syscall(number, NEWPID | signal.SIGCHLD, 0, 0, 0, 0), "clone")
