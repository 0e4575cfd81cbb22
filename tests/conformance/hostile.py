"""Programs that try to get out, to take more than they may, to break the engine, or to pass by cheating.

Each is the body of a function f(x) that should return x + 1. Words like @secret@ are filled in by the test.
"""

from dataclasses import dataclass, field
from textwrap import dedent, indent

HELD = ("wrong_answer",)
"""What a program gets whose every way out was refused: it returns the right answer only if it did get out."""


@dataclass(frozen=True)
class Hostile:
    """One program."""

    name: str
    language: str
    code: str
    verdicts: tuple[str, ...]
    limits: dict[str, float] = field(default_factory=dict)
    says: str = ""
    """A part of the verdict's detail."""
    control: bool = False
    """Without a sandbox it does get out, and harms nothing."""
    bomb: bool = False
    """The test watches the memory and the disk of the machine."""
    whole: bool = False
    """The code is what stands between prompt and tests, as it is."""


PROMPTS = {
    "python": "def f(x):\n",
    "java": (
        "import java.io.*;\nimport java.net.*;\nimport java.nio.file.*;\nimport java.util.*;\nclass Problem {\n"
        "    public static long f(long x) throws Exception {\n"
    ),
    "javascript": "const fs = require('fs');\nfunction f(x) {\n",
    "cpp": "".join(
        f"#include <{name}>\n"
        for name in (
            *("assert.h", "errno.h", "fcntl.h", "signal.h", "stdint.h", "stdio.h", "stdlib.h", "string.h", "time.h"),
            *("unistd.h", "arpa/inet.h", "dirent.h", "sys/mman.h", "sys/prctl.h", "sys/socket.h", "sys/stat.h"),
            *("sys/syscall.h", "sys/un.h", "sys/wait.h", "linux/vm_sockets.h", "initializer_list"),
        )
    )
    + "long f(long x) {\n",
    "bash": "#!/bin/bash\nf() {\n",
}
TESTS = {
    "python": "assert f(1) == 2\n",
    "java": (
        "    }\n    public static void main(String[] args) throws Exception {\n    assert(f(1l) == (2l));\n    }\n\n}\n"
    ),
    "javascript": "const assert = require('node:assert');\nassert.deepEqual(f(1), 2);\n",
    "cpp": "}\nint main() {\n    assert(f(1) == 2);\n}\n",
    "bash": (
        '}\n\ncandidate() {\n    f "$@"\n}\n\nset -e\nrun_test() {\n    [[ $(candidate "1") = "2" ]]\n}\n\nrun_test'
    ),
}
ENDS = {"javascript": "\n}"}
RIGHT = {
    "python": "    return x + 1",
    "java": "        return x + 1;",
    "javascript": "    return x + 1;\n}",
    "cpp": "    return x + 1;",
    "bash": "    echo $(($1 + 1))",
}

PYTHON = """
import ctypes, glob, mmap, os, resource, signal, socket, struct, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    found = libc.syscall(number, *arguments)
    if found == -1:
        raise OSError(ctypes.get_errno(), number)
    return found
def gets_out(*attempts):
    for attempt in attempts:
        try:
            found = attempt()
        except (OSError, EOFError):
            continue
        if found is not False:
            return 2
    return 0
def read(path):
    with open(path, "rb") as file:
        return file.read(1 << 20)
"""
"""Before every program in Python."""

NEEDLE = 'b"flextune-sec" + b"ret"'
"""Every planted secret begins with it; no program does."""


STANDARD_LIBRARY = "#include <string>\n#include <thread>\n#include <vector>\n"
"""Half a second for the compiler."""


def prompt(language: str, code: str) -> str:
    """What stands before the code; in C++ with the standard library only where it is used."""
    return (STANDARD_LIBRARY if language == "cpp" and "std::" in code else "") + PROMPTS[language]


def completion(program: Hostile) -> str:
    """What the model wrote."""
    if program.whole:
        return program.code
    code = dedent(program.code).strip("\n")
    if program.language == "python":
        code = f"{PYTHON.strip()}\n{code}"
    return indent(code, "    ") + ENDS.get(program.language, "")


# ---- ways out: files -------------------------------------------------------------------------------------------------

FILES = [
    Hostile(
        "read planted files",
        "python",
        """
        places = "@secret@ @home@ @cwd@ @temporary@ /etc/passwd /etc/shadow /etc/hostname".split()
        return gets_out(*(lambda path=path: read(path) for path in places))
        """,
        HELD,
        control=True,
    ),
    Hostile(
        "read planted files",
        "cpp",
        """
        for (const char *path : {"@secret@", "@home@", "@cwd@", "@temporary@", "/etc/passwd", "/etc/shadow"})
            if (open(path, O_RDONLY) >= 0) return 2;
        return 0;
        """,
        HELD,
        control=True,
    ),
    Hostile(
        "read planted files",
        "java",
        """
        for (String path : new String[] {"@secret@", "@home@", "@cwd@", "@temporary@", "/etc/passwd"})
            try { Files.readAllBytes(Paths.get(path)); return 2; } catch (IOException e) { }
        return 0;
        """,
        HELD,
        control=True,
    ),
    Hostile(
        "read planted files",
        "javascript",
        """
        for (const path of ["@secret@", "@home@", "@cwd@", "@temporary@", "/etc/passwd"])
            try { fs.readFileSync(path); return 2; } catch (e) { if (!e.code) throw e; }
        return 0;
        """,
        HELD,
        control=True,
    ),
    Hostile(
        "read planted files",
        "bash",
        "for path in @secret@ @home@ @cwd@ @temporary@ /etc/passwd; do\n"
        "    (: < $path) 2>/dev/null && { echo 2; return; }\ndone\necho 0",
        HELD,
        control=True,
    ),
    Hostile(
        "list folders of others",
        "python",
        """
        def seen(path):
            return os.listdir(path) != [] and path
        places = ["@folder@", "@temporary@".rpartition("/")[0], "/root", "/home", "/var/log", "/etc"]
        return gets_out(*(lambda path=path: seen(path) for path in places))
        """,
        HELD,
        control=True,
    ),
    Hostile(
        "write outside",
        "python",
        """
        places = ["@folder@/new", "@secret@", "/usr/new", "/var/tmp/new", sys.executable]
        return gets_out(*(lambda path=path: open(path, "ab") for path in places))
        """,
        HELD,
    ),
    Hostile(
        "write outside",
        "cpp",
        """
        for (const char *path : {"@folder@/new", "@secret@", "/usr/new", "/usr/bin/sh"})
            if (open(path, O_WRONLY | O_CREAT, 0600) >= 0) return 2;
        return 0;
        """,
        HELD,
    ),
    Hostile(
        "change what is not written",  # landlock knows no rights for these
        "python",
        """
        secret = "@secret@"
        return gets_out(
            lambda: os.chmod(secret, 0o666),
            lambda: os.utime(secret, (1, 1)),
            lambda: os.setxattr(secret, "user.flextune", b"1"),
            lambda: os.chown(secret, os.getuid(), os.getgid()),
            lambda: os.truncate(secret, 1),
            lambda: os.rename(secret, secret + "2"),
            lambda: os.unlink(secret),
        )
        """,
        HELD,
    ),
    Hostile(
        "change what is not written",
        "cpp",
        """
        const char *secret = "@secret@";
        if (chmod(secret, 0666) == 0 || truncate(secret, 1) == 0 || unlink(secret) == 0) return 2;
        return utimensat(AT_FDCWD, secret, 0, 0) == 0 || chown(secret, getuid(), getgid()) == 0 ? 2 : 0;
        """,
        HELD,
    ),
    Hostile(
        "symbolic and hard links",
        "python",
        """
        for name, to in ("a", "@secret@"), ("b", "/"), ("c", "c"), ("d", "e"), ("e", "d"), ("f", "@folder@"):
            os.symlink(to, name)
        def link():
            os.link("@secret@", "hard")
            return read("hard")
        return gets_out(
            lambda: read("a"),
            lambda: open("a", "ab"),
            lambda: read("b@secret@"),
            lambda: read("c"),
            lambda: read("d"),
            lambda: os.listdir("b/home"),
            lambda: os.listdir("f"),
            lambda: open("f/new", "w"),
            lambda: read("/proc/self/root@secret@"),
            lambda: read("/proc/self/cwd/../../../../../..@secret@"),
            link,
        )
        """,
        HELD,
    ),
    Hostile(
        "symbolic and hard links",
        "bash",
        "ln -s @secret@ a; ln -s / b; ln -s c c; ln -s @folder@ f; ln @secret@ hard 2>/dev/null || true\n"
        "for path in a b@secret@ c hard f/secret; do (: < $path) && { echo 2; return; }; done 2>/dev/null\necho 0",
        HELD,
    ),
    Hostile(
        "links instead of the scratch folder",  # what the engine empties afterwards must not be what they name
        "python",
        """
        scratch = os.getcwd()
        os.symlink("@folder@", "inner")
        os.mkdir("deep")
        os.symlink("@folder@", "deep/link")
        def replace():
            os.rmdir(scratch)
            os.symlink("@folder@", scratch)
        return gets_out(replace, lambda: os.rename("deep", scratch), lambda: os.rename(scratch, "/new"))
        """,
        HELD,
    ),
    Hostile(
        "tamper with the harness",
        "python",
        """
        above = os.path.dirname(os.getcwd())
        places = ["/program", *(os.path.join(above, name) for name in ("compiler", "warm-cpp", "0", "1", "2", "program"))]
        places += [sys.executable, "/usr/bin/prlimit", "/usr/lib/python3/dist-packages"]
        def change(path):
            if not os.path.isdir(path):
                return open(path, "r+b")
            for name in os.listdir(path):
                return open(os.path.join(path, name), "r+b")
            return open(os.path.join(path, "new"), "w")
        return gets_out(*(lambda path=path: change(path) for path in places))
        """,
        HELD,
    ),
    Hostile(
        "tamper with the harness",
        "cpp",
        """
        char own[4096] = "";
        if (readlink("/proc/self/exe", own, sizeof own - 1) < 0) return 3;
        std::string folder(own, strrchr(own, '/'));
        for (std::string path : {std::string(own), std::string("/proc/self/exe"), folder + "/program.cpp", folder + "/new"})
            if (open(path.c_str(), O_WRONLY | O_CREAT, 0777) >= 0) return 2;
        return unlink(own) == 0 || rename(own, (folder + "/x").c_str()) == 0 || chmod(own, 0777) == 0 ? 2 : 0;
        """,
        HELD,
    ),
    Hostile(
        "tamper with the harness",
        "java",
        """
        Path folder = Paths.get(Problem.class.getProtectionDomain().getCodeSource().getLocation().toURI());
        for (String name : new String[] {"Problem.class", "Problem.java", "New.class", "../compiler/CompileServer.java"})
            try { Files.write(folder.resolve(name), new byte[1]); return 2; } catch (IOException e) { }
        return 0;
        """,
        HELD,
    ),
]

# ---- ways out: processes ---------------------------------------------------------------------------------------------

PROCESSES = [
    Hostile(
        "environment of the caller",
        "python",
        "return 2 if any('FLEXTUNE' in name for name in os.environ) else 0",
        HELD,
    ),
    Hostile(
        "environment of the caller",
        "cpp",
        """
        for (char **entry = environ; *entry; entry++) if (strstr(*entry, "FLEXTUNE_SECRET")) return 2;
        return 0;
        """,
        HELD,
    ),
    Hostile("environment of the caller", "bash", "env | grep -q FLEXTUNE && echo 2 || echo 0", HELD),
    Hostile(
        "proc of others",
        "python",
        f"""
        needle = {NEEDLE}
        own = str(os.getpid())
        def search(path):
            return needle in read(path)
        try:
            names = [name for name in os.listdir("/proc") if name.isdigit()]
        except OSError:
            names = []
        names = [name for name in names + ["1", "@pid@", "@test@", str(os.getppid())] if name != own]
        paths = [f"/proc/{{name}}/{{part}}" for name in names for part in ("environ", "cmdline")]
        return gets_out(
            *(lambda path=path: search(path) for path in paths),
            lambda: os.listdir("/proc/@pid@/fd"),
            lambda: read("/proc/@pid@/root@secret@"),
            lambda: read("/proc/@pid@/cwd/secret"),
            lambda: open("/proc/@pid@/mem", "r+b"),
            lambda: open("/proc/@test@/mem", "r+b"),
        )
        """,
        HELD,
    ),
    Hostile(
        "proc of others",
        "bash",
        "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | grep -qa 'flextune-sec[r]et' && echo 2 || echo 0",
        HELD,
        control=True,
    ),
    Hostile(
        "write to proc and sys",
        "python",
        """
        paths = ["kernel/core_pattern", "kernel/hostname", "kernel/modprobe", "vm/drop_caches", "kernel/yama/ptrace_scope"]
        return gets_out(
            *(lambda path=path: open("/proc/sys/" + path, "w") for path in paths),
            lambda: open("/proc/sysrq-trigger", "w"),
            lambda: open("/proc/self/oom_score_adj", "w"),
            lambda: open("/proc/self/exe", "r+b"),
            lambda: open("/proc/self/mem", "r+b"),
            lambda: open("/proc/1/oom_score_adj", "w").write("-999") and open("/proc/1/oom_score_adj").read() == "-999",
            lambda: open("/sys/kernel/uevent_helper", "w"),
            lambda: read("/proc/kcore"),
            lambda: read("/proc/kmsg"),
            lambda: read("/dev/mem"),
            lambda: read("/dev/vda"),
        )
        """,
        HELD,
    ),
    Hostile(
        "write to proc and sys",
        "cpp",
        """
        for (const char *path : {"/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches",
                                 "/sys/kernel/uevent_helper", "/proc/self/exe", "/dev/vda", "/dev/mem"})
            if (open(path, O_RDWR) >= 0) return 2;
        return 0;
        """,
        HELD,
    ),
    Hostile(
        "signals",
        "python",
        """
        def pidfd():
            opened = call(434, @pid@, 0)
            return call(424, opened, signal.SIGTERM, None, 0)
        return gets_out(
            lambda: os.kill(@pid@, signal.SIGTERM),
            lambda: os.killpg(@pid@, signal.SIGTERM),
            lambda: call(234, @pid@, @pid@, signal.SIGTERM),
            lambda: call(200, @pid@, signal.SIGTERM),
            lambda: os.kill(@test@, signal.SIGCONT),
            lambda: signal.sigqueue(@pid@, 0, 0) if hasattr(signal, "sigqueue") else False,
            pidfd,
        )
        """,
        HELD,
        control=False,
    ),
    Hostile(
        "signals",
        "cpp",
        """
        if (kill(@pid@, SIGTERM) == 0 || kill(-@pid@, SIGTERM) == 0 || kill(@test@, SIGCONT) == 0) return 2;
        return syscall(234, @pid@, @pid@, SIGTERM) == 0 || syscall(200, @pid@, SIGTERM) == 0 ? 2 : 0;
        """,
        HELD,
    ),
    Hostile(
        "signals to all and to the parent",
        "python",
        """
        for target in -1, os.getppid(), -os.getpgid(0):
            try:
                os.kill(target, signal.SIGKILL if target != -os.getpgid(0) else signal.SIGCONT)
            except OSError:
                pass
        return 0
        """,
        (*HELD, "runtime_error"),
    ),
    Hostile(
        "signals to all and to the parent",
        "bash",
        "kill -9 -1; kill -9 $PPID; kill -CONT 0; echo 0",
        (*HELD, "runtime_error"),
    ),
    Hostile(
        "limits and priorities of others",
        "python",
        """
        return gets_out(
            lambda: resource.prlimit(@pid@, resource.RLIMIT_NOFILE, (8, 8)),
            lambda: os.setpriority(os.PRIO_PROCESS, @pid@, 19),
            lambda: os.sched_setaffinity(@pid@, {0}),
            lambda: os.sched_setscheduler(@pid@, os.SCHED_IDLE, os.sched_param(0)),
        )
        """,
        HELD,
        control=False,
    ),
    Hostile(
        "raise own limits",
        "python",
        """
        def raised(what):
            soft, hard = resource.getrlimit(what)
            resource.setrlimit(what, (hard + 1, hard + 1))
        kinds = (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE)
        return 2 if any(resource.getrlimit(kind)[1] < 0 for kind in kinds) else gets_out(
            *(lambda kind=kind: raised(kind) for kind in kinds), lambda: os.nice(-5),
        )
        """,
        ("runtime_error", *HELD),  # ValueError: not allowed to raise maximum limit
        control=False,
    ),
    Hostile(
        "trace others",
        "python",
        """
        buffer = ctypes.create_string_buffer(64)
        vector = struct.pack("QQ", ctypes.addressof(buffer), 64)
        others = [@pid@, @test@, os.getppid()]
        return gets_out(
            *(lambda pid=pid: call(101, 16, pid, 0, 0) for pid in others),
            *(lambda pid=pid: call(101, 0x4206, pid, 0, 0) for pid in others),
            *(lambda pid=pid: call(310, pid, vector, 1, vector, 1, 0) for pid in others),
            *(lambda pid=pid: call(312, pid, os.getpid(), 0, 0, 0) for pid in others),
            *(lambda pid=pid: call(438, call(434, pid, 0), 1, 0) for pid in others),
        )
        """,
        HELD,
    ),
    Hostile(
        "standing of the process",
        "cpp",
        """
        FILE *file = fopen("/proc/self/status", "r");
        char line[256], value[64];
        int good = 0;
        while (file && fgets(line, sizeof line, file)) {
            if (sscanf(line, "Cap%*[EPIA]%*[a-z]: %63s", value) == 1) good += strspn(value, "0") == strlen(value);
            if (sscanf(line, "NoNewPrivs: %63s", value) == 1) good += value[0] == '1';
            if (sscanf(line, "Seccomp: %63s", value) == 1) good += value[0] == '2';
        }
        return good != 6 || getuid() == 0 || geteuid() == 0 || getgid() == 0 ? 2 : 0;
        """,
        HELD,
    ),
    Hostile(
        "standing of the process",
        "python",
        """
        held = bytearray(24)
        libc.syscall(125, struct.pack("Ii", 0x20080522, 0), (ctypes.c_char * 24).from_buffer(held))
        good = libc.prctl(39, 0, 0, 0, 0) == 1 and libc.prctl(21, 0, 0, 0, 0) == 2 and not any(held)
        return 0 if good and 0 not in (os.getuid(), os.geteuid(), os.getgid(), *os.getgroups()) else 2
        """,
        HELD,
        control=True,
    ),
    Hostile(
        "namespaces of its own",
        "python",
        """
        shared = [kind for kind in ("user", "pid", "net", "ipc", "uts") if os.readlink("/proc/self/ns/" + kind) in "@namespaces@".split()]
        return 2 if shared else 0
        """.replace(" if os.readlink", "\n                  if os.readlink"),
        HELD,
        control=True,
    ),
    Hostile(
        "open files",
        "cpp",
        """
        int many = 0;
        for (int file = 3; file < 1 << 16; file++) many += fcntl(file, F_GETFD) >= 0;
        return many > 1 ? 2 : 0;
        """,
        HELD,
    ),
    Hostile(
        "open files",
        "python",
        """
        files = [number for number in range(3, 1 << 16) if libc.fcntl(number, 1) >= 0]
        return 2 if len(files) > 1 else 0
        """,
        HELD,
    ),
    Hostile(
        "setuid programs",
        "python",
        """
        commands = [["su", "-c", "true"], ["mount", "-t", "tmpfs", "tmpfs", "/tmp"], ["passwd", "-d", "root"]]
        def works(command):
            return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60).returncode == 0
        return gets_out(
            *(lambda command=command: works(command) for command in commands), lambda: libc.prctl(39, 0, 0, 0, 0) == 0
        )
        """,
        HELD,
    ),
]

# ---- ways out: system calls ------------------------------------------------------------------------------------------

CALLS = [
    Hostile(
        "mounts and namespaces",
        "python",
        """
        attempts = [lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, None), lambda: call(161, b"/"), lambda: call(155, b".", b".")]
        attempts += [lambda: call(428, -100, b"/", 1), lambda: call(430, b"tmpfs", 0), lambda: call(442, -100, b"/", 0, 0, 0)]
        flags = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x10020000, 0x50000000)
        attempts += [lambda flag=flag: call(272, flag) for flag in flags]
        attempts += [lambda: call(308, os.open("/proc/self/ns/user", 0), 0)]
        def clone(flag):
            pid = call(56, flag | signal.SIGCHLD, 0, 0, 0, 0)
            if pid == 0:
                os._exit(0)
        return gets_out(*attempts, *(lambda flag=flag: clone(flag) for flag in flags))
        """,
        HELD,
    ),
    Hostile(
        "mounts and namespaces",
        "cpp",
        """
        struct { unsigned long flags, pidfd, child, parent, signal, stack, size, tls; } wanted = {0x10000000, 0, 0, 0, 17};
        if (syscall(272, 0x10000000) == 0 || syscall(272, 0x20000) == 0) return 2;
        long pid = syscall(435, &wanted, sizeof wanted);
        if (pid == 0) _exit(0);
        return pid > 0 || syscall(165, "none", "/tmp", "tmpfs", 0, 0) == 0 || chroot("/") == 0 ? 2 : 0;
        """,
        HELD,
    ),
    Hostile(
        "calls that no program needs",
        "python",
        """
        handle = struct.pack("Ii", 128, 0) + bytes(128)
        mount = ctypes.c_int()
        attributes = struct.pack("IIQQQQQ", 1, 128, 0, 0, 0, 0, 0x61) + bytes(96)
        return gets_out(
            lambda: call(303, -100, b".", handle, ctypes.byref(mount), 0),
            lambda: call(304, -100, handle, 0),
            lambda: call(321, 0, struct.pack("IIII", 2, 4, 4, 1) + bytes(100), 72),
            lambda: call(298, attributes, 0, -1, -1, 0),
            lambda: call(425, 8, bytes(120)),
            lambda: call(323, 1),
            lambda: call(250, 0, -3, 1),
            lambda: call(248, b"user", b"flextune", b"x", 1, -2),
            lambda: call(101, 0, 0, 0, 0),
            lambda: call(319, b"memory", 0),
            lambda: call(447, 0),
            lambda: call(29, 0, 4096, 0o1600),
            lambda: call(64, 0, 1, 0o1600),
            lambda: call(68, 0, 0o1600),
            lambda: call(103, 10, None, 0),
            lambda: call(300, 0x200, 0),
            lambda: call(135, 0x0400000),
        )
        """,
        HELD,
        control=True,
    ),
    Hostile(
        "calls of other architectures",
        "cpp",
        """
        long found;
        asm volatile("int $0x80" : "=a"(found) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
        return found > 0 ? 2 : 0;
        """,
        (*HELD, "runtime_error"),
    ),
    Hostile(
        "calls with the x32 bit",
        "python",
        "return gets_out(lambda: call(0x40000000 + 39), lambda: call(0x40000000 + 41, 2, 1, 0))",
        (*HELD, "runtime_error"),
    ),
    Hostile("calls with the x32 bit", "cpp", "return syscall(0x40000000 + 39) > 0 ? 2 : 0;", (*HELD, "runtime_error")),
]

# ---- ways out: the network -------------------------------------------------------------------------------------------

NETWORK = [
    Hostile(
        "connect",
        "python",
        """
        def connect(family, kind, address):
            with socket.socket(family, kind) as opened:
                opened.settimeout(1)
                opened.connect(address)
                opened.send(b"out")
        return gets_out(
            lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", @port@)),
            lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", @port@)),
            lambda: connect(socket.AF_INET6, socket.SOCK_STREAM, ("::ffff:127.0.0.1", @port@)),
            lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "@socket@"),
            lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "\\0@abstract@"),
            lambda: socket.getaddrinfo("example.com", 80),
        )
        """,
        HELD,
        control=True,
    ),
    Hostile(
        "connect",
        "cpp",
        """
        sockaddr_in address = {AF_INET, htons(@port@), {htonl(INADDR_LOOPBACK)}};
        sockaddr_un path = {AF_UNIX, "@socket@"};
        int tcp = socket(AF_INET, SOCK_STREAM, 0), local = socket(AF_UNIX, SOCK_STREAM, 0);
        return connect(tcp, (sockaddr *)&address, sizeof address) == 0
            || connect(local, (sockaddr *)&path, sizeof path) == 0 ? 2 : 0;
        """,
        HELD,
        control=True,
    ),
    Hostile(
        "connect",
        "java",
        'try { new Socket("127.0.0.1", @port@); return 2; } catch (IOException e) { return 0; }',
        HELD,
        control=True,
    ),
    Hostile("connect", "bash", "(: > /dev/tcp/127.0.0.1/@port@) 2>/dev/null && echo 2 || echo 0", HELD, control=True),
    Hostile(
        "socket pairs that turn outwards",  # they are allowed, and may be connected anew
        "python",
        """
        def turn(kind, name):
            first, second = socket.socketpair(socket.AF_UNIX, kind)
            first.connect(name)
            first.send(b"out")
        kinds = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
        names = ("@socket@", "\\0@abstract@", "@datagrams@", "\\0@abstract@2")
        return gets_out(*(lambda k=k, n=n: turn(k, n) for k in kinds for n in names))
        """,
        HELD,
        control=True,
    ),
    Hostile(
        "sockets of odd families",
        "python",
        """
        wanted = [(16, 3, 0), (16, 3, 15), (17, 3, 3), (40, 1, 0), (38, 5, 0), (2, 3, 1), (10, 3, 58), (2, 2, 1), (1, 1, 0)]
        return gets_out(*(lambda w=w: socket.socket(*w) for w in wanted))
        """,
        HELD,
        control=True,
    ),
]

# ---- too much --------------------------------------------------------------------------------------------------------

SLEEPY = {"wall_seconds": 1.5}
ASLEEP = {"wall_seconds": 3}
"""Limits for a program that has to sleep before the clock ends it."""
BUSY = {"cpu_seconds": 1, "wall_seconds": 300}
"""Limits under which processor time ends a program before the clock does, however busy the machine is."""
STOPPED = ("timeout", "runtime_error", "memory_limit")

BOMBS = [
    Hostile(
        "fork bomb",
        "python",
        """
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        ("timeout",),
    ),
    Hostile("fork bomb", "cpp", "while (true) fork();", ("timeout",)),
    Hostile("fork bomb", "bash", "g() { g | g & }; g; g | g; wait; while :; do :; done", STOPPED),
    Hostile(
        "thread bomb",
        "python",
        """
        while True:
            threading.Thread(target=time.sleep, args=(9,)).start()
        """,
        STOPPED,
        SLEEPY,
    ),
    Hostile(
        "thread bomb",
        "cpp",
        "while (true) (new std::thread([] { sleep(9); }))->detach();",
        STOPPED,
        SLEEPY,
    ),
    Hostile(
        "thread bomb",
        "java",
        "while (true) new Thread(() -> { try { Thread.sleep(9000); } catch (Exception e) { } }).start();",
        STOPPED,
        SLEEPY,
    ),
    Hostile("memory of one", "python", "return len(bytearray(1 << 40))", ("memory_limit",), bomb=True),
    Hostile(
        "memory of one",
        "cpp",
        """
        for (std::vector<char *> all;;) { all.push_back(new char[1 << 20]); memset(all.back(), 1, 1 << 20); }
        """,
        ("memory_limit",),
        bomb=True,
    ),
    Hostile(
        "memory of one",
        "java",
        "List<byte[]> all = new ArrayList<>(); while (true) all.add(new byte[1 << 20]);",
        ("memory_limit",),
        bomb=True,
    ),
    Hostile(
        "memory outside the heap",
        "javascript",
        "const all = []; while (true) all.push(Buffer.alloc(1 << 24, 1));",
        ("memory_limit", "runtime_error"),
        bomb=True,
    ),
    Hostile(
        "memory of many",
        "python",
        """
        for _ in range(30):
            if os.fork() == 0:
                libc.prctl(4, 0, 0, 0, 0)  # not dumpable: an ordinary user cannot look into it
                kept = b"x" * (150 << 20)
                time.sleep(60)
                os._exit(0)
        time.sleep(60)
        """,
        ("memory_limit",),
        bomb=True,
    ),
    Hostile(
        "memory of many",
        "cpp",
        """
        for (int i = 0; i < 30; i++)
            if (fork() == 0) { prctl(PR_SET_DUMPABLE, 0); memset(malloc(150 << 20), 1, 150 << 20); sleep(60); _exit(0); }
        sleep(60);
        return 2;
        """,
        ("memory_limit",),
        bomb=True,
    ),
    Hostile(
        "shared memory of many",
        "python",
        """
        for _ in range(30):
            if os.fork() == 0:
                kept = mmap.mmap(-1, 150 << 20)
                for page in range(0, len(kept), 4096):
                    kept[page] = 1
                time.sleep(60)
        time.sleep(60)
        """,
        ("memory_limit",),
        bomb=True,
    ),
    Hostile(
        "memory in files of memory",
        "cpp",
        """
        for (int i = 0; i < 200; i++) {
            std::string name = "/dev/shm/" + std::to_string(i);
            int places[] = {(int)syscall(319, "m", 0), open(name.c_str(), O_RDWR | O_CREAT, 0600)};
            for (int file : places) {
                if (file < 0 || ftruncate(file, 8 << 20) < 0) continue;
                for (int page = 0; page < 2048; page++) if (pwrite(file, "x", 1, page * 4096) != 1) break;
            }
        }
        return 0;
        """,
        (*HELD, "timeout", "runtime_error", "memory_limit", "output_limit"),
        bomb=True,
    ),
    Hostile(
        "memory in socket pairs",
        "python",
        """
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        def fill():
            kept = []
            try:
                while True:
                    for end in (pair := socket.socketpair()):
                        kept.append(end)
                        end.setblocking(False)
                        try:
                            while True:
                                end.send(bytes(1 << 16))
                        except BlockingIOError:
                            pass
            except OSError:
                time.sleep(9)
        for _ in range(12):
            if os.fork() == 0:
                fill()
        time.sleep(3)
        return 0
        """,
        (*HELD, "timeout", "memory_limit"),
        {"cpu_seconds": 8},
        bomb=True,
    ),
    Hostile(
        "disk in one file",
        "python",
        """
        with open("big", "wb") as file:
            while True:
                file.write(bytes(1 << 20))
        """,
        ("output_limit", "runtime_error"),
        bomb=True,
    ),
    Hostile(
        "disk in one file", "bash", "cat /dev/zero > big; echo 0", ("output_limit", "runtime_error", *HELD), bomb=True
    ),
    Hostile(
        "disk in many files",
        "cpp",
        """
        std::vector<char> block(1 << 20, 1);
        bool some = true;
        for (int i = 0; some; i++) {
            some = false;
            for (std::string place : {"", "/tmp/", "/dev/shm/", "/dev/", "/", "/var/tmp/", "/run/", "/home/", "/program/"}) {
                int file = open((place + std::to_string(i)).c_str(), O_WRONLY | O_CREAT, 0600);
                for (int part = 0; file >= 0 && part < 15 && write(file, block.data(), block.size()) > 0; part++) some = true;
                close(file);
            }
        }
        return 0;
        """,
        ("output_limit", *HELD),
        bomb=True,
    ),
    Hostile(
        "disk in deleted files",
        "python",
        """
        kept = []
        for number in range(100):
            kept.append(open("file", "wb"))
            os.unlink("file")
            try:
                for _ in range(15):
                    kept[-1].write(bytes(1 << 20))
                    kept[-1].flush()
            except OSError:
                return 0
        time.sleep(60)
        return 2
        """,
        ("output_limit", *HELD),
        bomb=True,
    ),
    Hostile(
        "disk where the engine cannot look",
        "cpp",
        """
        std::vector<char> block(1 << 20, 1);
        mkdir("blind", 0300);
        if (chdir("blind") < 0) return 3;
        for (int i = 0; i < 2500; i++) { mkdir("d", 0700); if (chdir("d") < 0) return 3; }
        for (int i = 0; i < 100; i++) {
            int file = open(std::to_string(i).c_str(), O_WRONLY | O_CREAT, 0600);
            for (int part = 0; part < 15; part++) if (write(file, block.data(), block.size()) < 0) return 0;
            close(file);
        }
        sleep(60);
        return 2;
        """,
        ("output_limit", *HELD),
        bomb=True,
    ),
    Hostile(
        "many inodes",
        "cpp",
        """
        for (long i = 0;; i++) {
            int file = open(std::to_string(i).c_str(), O_WRONLY | O_CREAT, 0600);
            if (file < 0) return 0;
            close(file);
        }
        """,
        ("timeout", "output_limit", *HELD),
        {"cpu_seconds": 1},
        bomb=True,
    ),
    Hostile("endless output", "python", "while True: os.write(1, b'x' * 999 + b'\\n')", ("output_limit",)),
    Hostile("endless errors", "cpp", 'while (true) fputs("error\\n", stderr);', ("output_limit",)),
    Hostile("endless line", "java", 'while (true) System.out.print("xxxxxxxxxxxxxxxx");', ("output_limit",)),
    Hostile("endless errors without a line", "bash", "cat /dev/zero >&2", ("output_limit",)),
    Hostile(
        "much output that is allowed",
        "python",
        "print('x' * 1_000_000); print('y' * 1_000_000, file=sys.stderr); return 2",
        ("passed",),
        {"output_kb": 2048},
    ),
    Hostile(
        "much output that is allowed",
        "java",
        'System.out.println("x".repeat(1000000)); System.err.println("y".repeat(1000000)); return 2;',
        ("passed",),
        {"output_kb": 2048},
    ),
]

# ---- too long --------------------------------------------------------------------------------------------------------

CPU = "processor time"
CLOCK = "by the clock"

TIME = [
    Hostile(
        "sleep without end",
        "python",
        """
        for number in set(range(1, 65)) - {9, 19, 32, 33}:
            signal.signal(number, signal.SIG_IGN)
        while True:
            time.sleep(600)
        """,
        ("timeout",),
        ASLEEP,
        says=CLOCK,
    ),
    Hostile(
        "sleep without end",
        "cpp",
        "for (int i = 1; i < 65; i++) signal(i, SIG_IGN);\nwhile (true) sleep(600);",
        ("timeout",),
        ASLEEP,
        says=CLOCK,
    ),
    Hostile(
        "sleep without end", "bash", "trap '' TERM INT XCPU HUP; sleep 600; sleep 600", ("timeout",), ASLEEP, says=CLOCK
    ),
    Hostile(
        "deaf to SIGXCPU",
        "python",
        """
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        while True:
            pass
        """,
        ("timeout",),
        BUSY,
        says=CPU,
    ),
    Hostile(
        "deaf to SIGXCPU",
        "cpp",
        "signal(SIGXCPU, SIG_IGN);\nfor (volatile long y = 0;;) y = y + 1;",
        ("timeout",),
        BUSY,
        says=CPU,
    ),
    Hostile("deaf to SIGXCPU", "bash", "trap '' XCPU; while :; do :; done", ("timeout",), BUSY, says=CPU),
    Hostile(
        "time of many children",
        "python",
        """
        children = []
        for _ in range(8):
            children.append(os.fork())
            if children[-1] == 0:
                while True:
                    pass
        for child in children:
            os.waitpid(child, 0)
        """,
        ("timeout",),
        BUSY,
        says=CPU,
    ),
    Hostile(
        "time of many children",
        "cpp",
        "for (int i = 0; i < 8; i++) if (fork() == 0) for (volatile long y = 0;;) y = y + 1;\nwhile (wait(0) > 0) { }\nreturn 2;",
        ("timeout",),
        BUSY,
        says=CPU,
    ),
    Hostile(
        "time of orphans",
        "python",
        """
        for _ in range(4):
            if os.fork() == 0:
                os.setsid()
                for _ in range(2):
                    if os.fork() == 0:
                        while True:
                            pass
                os._exit(0)
        time.sleep(600)
        """,
        ("timeout",),
        BUSY,
        says=CPU,
    ),
    Hostile(
        "time of orphans",
        "bash",
        "for i in 1 2 3 4; do (setsid bash -c 'while :; do :; done' >/dev/null 2>&1 &) ; done; sleep 600",
        ("timeout",),
        BUSY,
        says=CPU,
    ),
    Hostile(
        "time of children that nobody waits for",  # the kernel does not add it up: the clock stops this one
        "cpp",
        """
        signal(SIGCHLD, SIG_IGN);
        while (true) {
            if (fork() == 0) { while (clock() < CLOCKS_PER_SEC / 20) { } _exit(0); }
            while (wait(0) > 0) { }
        }
        """,
        ("timeout",),
        {"cpu_seconds": 1, "wall_seconds": 3},
    ),
]

# ---- what is left behind ---------------------------------------------------------------------------------------------

LEFT = [
    Hostile(
        "processes",
        "python",
        """
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            for _ in range(3):
                if os.fork() == 0:
                    os.execvp("sleep", ["sleep", "@marker@"])
            os._exit(0)
        time.sleep(0.2)
        return 2
        """,
        ("passed",),
    ),
    Hostile("processes", "bash", "setsid sleep @marker@ >/dev/null 2>&1 & sleep 0.2; echo 2", ("passed",)),
    Hostile(
        "processes",
        "cpp",
        """
        if (fork() == 0) { setsid(); if (fork() == 0) execlp("sleep", "sleep", "@marker@", (char *)0); _exit(0); }
        usleep(200000);
        return 2;
        """,
        ("passed",),
    ),
    Hostile(
        "processes of an endless program",
        "python",
        """
        if os.fork() == 0:
            os.setsid()
            os.execvp("sleep", ["sleep", "@marker@"])
        while True:
            pass
        """,
        ("timeout",),
    ),
    Hostile(
        "threads",
        "python",
        """
        for _ in range(5):
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        return 2
        """,
        ("passed",),
    ),
    Hostile(
        "threads",
        "java",
        """
        Thread thread = new Thread(() -> { while (true) { } });
        thread.setDaemon(true);
        thread.start();
        return 2;
        """,
        ("passed",),
    ),
    Hostile(
        "deep folders",
        "python",
        """
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
        return 2
        """,
        ("passed",),
    ),
    Hostile(
        "deep folders",
        "cpp",
        'for (int i = 0; i < 3000; i++) { mkdir("d", 0700); if (chdir("d") < 0) return 3; }\nreturn 2;',
        ("passed",),
    ),
    Hostile(
        "folders without rights",
        "python",
        """
        os.makedirs("a/b/c")
        open("a/b/file", "w").close()
        for path in "a/b/c", "a/b", "a":
            os.chmod(path, 0)
        os.chmod(os.getcwd(), 0)
        return 2
        """,
        ("passed", "runtime_error"),  # where the scratch folder is not its own, it cannot take the rights on it
    ),
    Hostile("folders without rights", "bash", "mkdir -p a/b/c; : > a/b/file; chmod 0 a/b/c a/b a; echo 2", ("passed",)),
    Hostile(
        "names that are no text",
        "python",
        """
        for name in b"\\xff\\xfe", b"-rf", b"\\n", b"*", b" ", "\\u202e".encode(), b"x" * 255:
            os.mkdir(name)
            open(name + b"/" + name, "w").close()
        os.mkfifo("fifo")
        socket.socketpair()
        return 2
        """,
        ("passed",),
    ),
]

# ---- cheating --------------------------------------------------------------------------------------------------------

EARLY = ("early_exit", "runtime_error", *HELD)

CHEATS = [
    # Everything that can literally be read is reported. A program that knows to multiply could pass (docs/execution.md).
    Hostile(
        "report every number",
        "python",
        """
        import gc, re
        numbers = set()
        def gather(thing):
            text = thing if isinstance(thing, bytes) else repr(thing).encode()
            numbers.update(re.findall(rb"\\d+", text))
        frame = sys._getframe()
        while frame:
            gather(frame.f_code.co_consts)
            gather(list(frame.f_globals.values()))
            gather(frame.f_code.co_filename)
            frame = frame.f_back
        for thing in gc.get_objects():
            if hasattr(thing, "__code__"):
                gather(thing.__code__.co_consts)
        for thing in sys.argv, dict(os.environ), sys.orig_argv:
            gather(thing)
        for path in [*glob.glob("/proc/self/*"), *glob.glob("*"), *glob.glob("../*"), *glob.glob("/program/*")]:
            try:
                gather(read(path) if not path.endswith(("pagemap", "mem", "clear_refs")) else b"")
            except OSError:
                pass
        for number in range(1024):
            try:
                os.lseek(number, 0, 0)
                gather(os.read(number, 1 << 20))
            except OSError:
                pass
        message = b" ".join(numbers)[:60000]
        for number in range(1024):
            for path in f"/dev/fd/{number}", f"/proc/self/fd/{number}":
                try:
                    os.write(os.open(path, os.O_WRONLY | os.O_NONBLOCK), message)
                except OSError:
                    pass
        os._exit(0)
        """,
        (*EARLY, "output_limit"),
    ),
    Hostile(
        "report every number",
        "cpp",
        """
        std::vector<std::string> texts;
        for (const char *path : {"/proc/self/exe", "/program/program.cpp", "/proc/self/cmdline", "/proc/self/environ"}) {
            std::string text(4 << 20, ' ');
            int file = open(path, O_RDONLY);
            if (file >= 0) { text.resize(std::max(0L, (long)read(file, &text[0], text.size()))); texts.push_back(text); }
        }
        std::string numbers;
        for (auto &text : texts)
            for (char c : text) if (c >= '0' && c <= '9') numbers += c; else if (numbers.size() && numbers.back() != ' ') numbers += ' ';
        numbers.resize(std::min(numbers.size(), (size_t)60000));
        for (int i = 3; i < 1024; i++) {
            int file = open(("/dev/fd/" + std::to_string(i)).c_str(), O_WRONLY | O_NONBLOCK);
            if (file >= 0) { if (write(file, numbers.data(), numbers.size()) < 0) continue; }
        }
        _exit(0);
        """,
        EARLY,
    ),
    Hostile(
        "report every number",
        "java",
        """
        Path folder = Paths.get(Problem.class.getProtectionDomain().getCodeSource().getLocation().toURI());
        StringBuilder numbers = new StringBuilder();
        for (File file : folder.toFile().listFiles())
            numbers.append(new String(Files.readAllBytes(file.toPath()), "ISO-8859-1").replaceAll("[^0-9]+", " "));
        String first = numbers.substring(0, Math.min(60000, numbers.length()));
        for (int i = 3; i < 256; i++)
            try (FileWriter report = new FileWriter("/dev/fd/" + i)) { report.write(first); } catch (IOException e) { }
        Runtime.getRuntime().halt(0);
        return 0;
        """,
        (*EARLY, "timeout"),  # it may well write into a pipe of the machine's own
        {"wall_seconds": 3},
    ),
    Hostile(
        "report every number",
        "javascript",
        """
        const numbers = fs.readFileSync(__filename, "utf8").match(/[0-9]+/g).join(" ");
        for (let i = 3; i < 256; i++)
            try { fs.writeSync(fs.openSync(`/dev/fd/${i}`, fs.constants.O_WRONLY | fs.constants.O_NONBLOCK), numbers); } catch (e) { }
        process.reallyExit(0);
        """,
        EARLY,
    ),
    Hostile(
        "report every number",
        "bash",
        "numbers=$(tr -cs 0-9 ' ' < $0)\n"
        "for i in /dev/fd/* {3..99}; do echo $numbers > /dev/fd/${i##*/}; done 2>/dev/null\nkill -9 $$; exit 0",
        EARLY,
    ),
    Hostile("close everything", "python", "os.closerange(0, 1 << 16); os._exit(0)", EARLY),
    Hostile("close everything", "cpp", "for (int i = 0; i < 1 << 16; i++) close(i);\n_exit(0);", EARLY),
    Hostile(
        "fill the report",
        "python",
        """
        for number in range(3, 64):
            try:
                file = os.open(f"/dev/fd/{number}", os.O_WRONLY | os.O_NONBLOCK)
                for _ in range(1000):
                    os.write(file, b"0123456789" * 100)
            except OSError:
                pass
        os._exit(0)
        """,
        EARLY,
    ),
    Hostile(
        "fill the report and wait",
        "bash",
        "for i in {3..99}; do [ -w /dev/fd/$i ] && head -c 1000000 /dev/zero > /dev/fd/$i; done; echo 2",
        ("timeout", "early_exit", *HELD),
        SLEEPY,
    ),
    Hostile(
        "empty the report",
        "python",
        """
        def drain():
            for number in range(3, 64):
                try:
                    file = os.open(f"/dev/fd/{number}", os.O_RDONLY | os.O_NONBLOCK)
                    os.set_blocking(file, True)
                    threading.Thread(target=lambda file=file: os.read(file, 100), daemon=True).start()
                except OSError:
                    pass
        drain()
        return 2
        """,
        ("passed", "early_exit", "runtime_error"),  # it can only harm itself
    ),
    Hostile(
        "many processes claim to have ended well",
        "cpp",
        "for (int i = 0; i < 20; i++) if (fork() == 0) _exit(0);\nkill(getppid(), SIGKILL);\n_exit(0);",
        EARLY,
    ),
]

# ---- hostile texts ---------------------------------------------------------------------------------------------------

REFUSED = ("compile_error", "compile_timeout")
ANY_ERROR = ("compile_error", "compile_timeout", "runtime_error", "memory_limit", "timeout")
QUICK = {"compile_seconds": 2}
FIVE = 5_000_000

TEXTS = [
    Hostile("five million characters", "python", f"    return 2\ny = '{'x' * FIVE}'", ("passed",), whole=True),
    Hostile(
        "five million characters",
        "cpp",
        f"    return 2; }}\n// {'x' * FIVE}\nlong g() {{ return 1;",
        ("passed",),
        whole=True,
    ),
    Hostile("five million characters", "bash", f"    echo 2\n    # {'x' * FIVE}", ("passed",), whole=True),
    Hostile("six million elements", "python", f"    return 2\ny = [{'0,' * 6_000_000}]", ANY_ERROR, whole=True),
    Hostile(
        "a parser that is stopped",
        "python",
        "    return 2\n" + "y = (lambda: [z for z in y if (y, y, y)])\n" * 120_000,
        ANY_ERROR,
        {"memory_mb": 2048, "cpu_seconds": 1},
        whole=True,
    ),
    Hostile("NUL bytes", "python", "    return 2\0", ("compile_error",), whole=True),
    Hostile("NUL bytes", "cpp", "    return 2;\0\0", ("passed", "compile_error"), whole=True),
    Hostile(
        "NUL bytes", "bash", "    echo 2\0", ("passed", "wrong_answer", "compile_error", "runtime_error"), whole=True
    ),
    Hostile("NUL bytes", "java", "        return 2;\0", ("passed", "compile_error"), whole=True),
    Hostile("lone surrogates", "python", "    return 2 if len('\ud800') else 0", ("passed",), whole=True),
    Hostile("lone surrogates", "java", '        return "\udfff".length() + 1;', ("passed",), whole=True),
    Hostile("lone surrogates", "javascript", "    return '\ud800'.length + 1;\n}", ("passed",), whole=True),
    Hostile("byte order marks", "python", "    return 2\n\ufeff", ("passed", "compile_error"), whole=True),
    Hostile("byte order marks", "java", "        return 2;\ufeff", ("passed", "compile_error"), whole=True),
    Hostile("deep recursion", "python", "sys.setrecursionlimit(10**9)\nreturn f(x + 1)", STOPPED),
    Hostile("deep recursion", "java", "return f(x + 1) + 1;", ("runtime_error", "memory_limit")),
    Hostile("deep recursion", "cpp", "volatile char all[1000]; all[0] = x; return f(x + 1) + all[0];", STOPPED),
    Hostile("deep expression", "python", f"    return {'(' * 100_000}2{')' * 100_000}", ("compile_error",), whole=True),
    Hostile("deep expression without brackets", "python", f"    return {'-' * 200_000}2", ANY_ERROR, whole=True),
    Hostile("long chain", "python", f"    return x{'.real' * 200_000}", (*ANY_ERROR, "passed"), whole=True),
    Hostile(
        "deep expression",
        "cpp",
        f"    return {'(' * 100_000}2{')' * 100_000};",
        (*REFUSED, "passed"),
        QUICK,
        whole=True,
    ),
    Hostile(
        "deep expression",
        "java",
        f"        return {'(' * 10_000}2{')' * 10_000};",
        (*REFUSED, "passed"),
        QUICK,
        whole=True,
    ),
    Hostile("deep expression", "javascript", f"    return {'(' * 100_000}2{')' * 100_000};\n}}", ANY_ERROR, whole=True),
    Hostile(
        "constants",
        "python",
        "    return 2\ny = lambda: (10**10**8, 'x' * 10**10, 1 << 10**10, ((0,) * 10**5,) * 10**5)",
        ("passed",),
        whole=True,
    ),
    Hostile(
        "constants",
        "java",
        '        return 2; }\n    static final String a0 = "xxxxxxxxxxxxxxxx";\n'
        + "".join(f"    static final String a{i} = a{i - 1} + a{i - 1};\n" for i in range(1, 30))
        + "    static long g() { return a29.length();",
        REFUSED,
        QUICK,
        whole=True,
    ),
    Hostile(
        "inference",
        "java",
        "        r("
        + "() -> r(" * 30
        + "() -> 1"
        + ")" * 30
        + "); return 2; }\n    static <T> T r(java.util.function.Supplier<T> s) { return s.get(); }\n"
        "    static <T> T r(java.util.concurrent.Callable<T> s) throws Exception { return s.call(); }\n"
        "    static long g() { return 1;",
        REFUSED,
        QUICK,
        whole=True,
    ),
    Hostile(
        "classes with the names of others",  # the compiler that stays warm must not remember them
        "java",
        "        return 2; } }\nclass System { }\nclass Long { }\nclass List { }\nclass IOException { }\n"
        "class Integer { static int f() { return 1;",
        ("passed", "compile_error"),
        whole=True,
    ),
    Hostile(
        "templates",
        "cpp",
        "    return A<25, 0>::v; }\ntemplate <int n, long m> struct A { static const long v = A<n - 1, 2 * m>::v + A<n - 1, 2 * m + 1>::v; };\n"
        "template <long m> struct A<0, m> { static const long v = m; };\nlong g() { return A<25, 0>::v;",
        REFUSED,
        QUICK,
        whole=True,
    ),
    Hostile(
        "templates without end",
        "cpp",
        "    return 2; }\ntemplate <typename T> struct A { static const int v = A<A<T>>::v; };\nlong g() { return A<int>::v;",
        REFUSED,
        QUICK,
        whole=True,
    ),
    Hostile(
        "constant loop",
        "cpp",
        "    return 2; }\nconstexpr long g(long n) { long s = 0; for (long i = 0; i < n; i++) for (long j = 0; j < n; j++) s += i ^ j; return s; }\n"
        "constexpr long all = g(200000);\nlong h() { return all;",
        REFUSED,
        QUICK,
        whole=True,
    ),
    Hostile(
        "macros",
        "cpp",
        "    return 2; }\n#define A0 x,x,x,x,x,x,x,x,x,x\n"
        + "".join(f"#define A{i} {','.join([f'A{i - 1}'] * 10)}\n" for i in range(1, 10))
        + "int all[] = {A9};\nlong g() { return 1;",
        REFUSED,
        QUICK,
        whole=True,
    ),
    Hostile(
        "large arrays",
        "cpp",
        "    return all[5]; }\nchar all[1L << 32] = {1};\nlong g() { return 1;",
        ANY_ERROR,
        QUICK,
        whole=True,
        bomb=True,
    ),
    Hostile(
        "include a device",
        "cpp",
        '    return 2; }\n#include "/dev/zero"\nlong g() { return 1;',
        REFUSED,
        {"compile_seconds": 8},  # long enough to take more than it may
        whole=True,
        bomb=True,
    ),
    Hostile(
        "include a secret",
        "cpp",
        '    return 2; }\n#include "@secret@"\nlong g() { return 1;',
        ("compile_error",),
        whole=True,
        control=False,
    ),
    Hostile(
        "include a secret by a link",
        "cpp",
        '    return 2; }\n#include </proc/self/root@secret@>\n#include "/etc/passwd"\nlong g() { return 1;',
        ("compile_error",),
        whole=True,
    ),
    Hostile(
        "assemble a secret",
        "cpp",
        '    return 2; }\nasm(".data\\nstolen: .incbin \\"@secret@\\"\\n.text");\nlong g() { return 1;',
        ("compile_error",),
        whole=True,
    ),
    Hostile(
        "question files with macros",
        "cpp",
        '    return 2; }\n#if __has_include("@secret@")\nlong g() { return 1;\n#else\nstatic_assert(false);\n#endif\n',
        ("compile_error", "passed"),  # whether a file is there shows in the native layer
        whole=True,
    ),
]

PROGRAMS = [*FILES, *PROCESSES, *CALLS, *NETWORK, *BOMBS, *TIME, *LEFT, *CHEATS, *TEXTS]
"""All of them."""
