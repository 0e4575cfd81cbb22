"""No program gets out, takes more than it may, passes by cheating, or harms the one that is judged after it."""

import contextlib
import ctypes
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from alive import alive

from flextune.execution import Execution, Limits, Program, engine, execute, javac
from flextune.execution.sandbox import kernel, launcher, problem
from flextune.execution.toolchain import find_tool

from .hostile import PROGRAMS, RIGHT, TESTS, completion, prompt

LAYERS = ("bubblewrap", "native")
LIMITS = {
    "cpu_seconds": 2,
    "wall_seconds": 4,
    "compile_seconds": 10,
    "memory_mb": 256,
    "disk_mb": 16,
    "output_kb": 256,
    "processes": 64,
}
PATIENT = {"cpu_seconds": 60, "wall_seconds": 300, "compile_seconds": 120}
"""The time of programs that end by themselves, or that something else ends: far more than they take."""
HUNG = 600
"""Seconds after which a test fails that waits for something: far more than it waits for where the code is right."""
GROWTH_MB = 2500
"""Memory and disk that a program may take for a moment: between two looks of the engine, or for a compiler."""
PLANTED = ["datagrams", "secret", "socket", "temporary"]
OWN_FOLDER = "flextune-hostile-"
SUBREAPER = kernel.PR_SET_CHILD_SUBREAPER


@dataclass(frozen=True)
class Host:
    """What is planted on the machine for programs to find."""

    folder: Path
    temporary: Path
    words: dict[str, object]
    pid: int
    secret: str
    files: tuple[Path, ...]
    owner: tuple[int, int]
    others: frozenset[int] = frozenset()
    """Processes below this one that were there before the program: other tests leave some, for as long as pytest runs."""

    def plant(self) -> None:
        """Write the files, anew for each program."""
        for path in (*self.folder.iterdir(), *self.temporary.iterdir()):
            if path.name not in PLANTED:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in self.files:
            path.unlink(missing_ok=True)
            path.write_text(self.secret)
            path.chmod(0o644)
            os.chown(path, *self.owner)
            os.utime(path, (1e9, 1e9))

    def intact(self) -> list[str]:
        """What a program has changed."""
        found = []
        try:
            os.kill(self.pid, 0)
            if Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                found.append("a process was killed")
        except OSError:
            found.append("a process was killed")
        if os.getpriority(os.PRIO_PROCESS, self.pid) != 0:
            found.append("a process has another priority")
        secret = self.folder / "secret"
        about = secret.stat()
        if (about.st_mode & 0o777, about.st_mtime, about.st_nlink) != (0o644, 1e9, 1):
            found.append("a file was changed")
        if secret.read_text() != self.secret:
            found.append("a file was overwritten")
        if sorted(path.name for path in self.folder.iterdir()) != PLANTED:
            found.append(f"a folder was changed: {sorted(self.folder.iterdir())}")
        if [path.name for path in self.temporary.iterdir()] != ["secret"]:
            found.append(f"the temporary folder is not empty: {sorted(self.temporary.iterdir())}")
        if not wait_until(lambda: not self.left()):  # the kernel is still ending what was killed with its namespace
            found.append(f"processes were left behind: {[command(pid) for pid in self.left()]}")
        if any(str(self.words["marker"]).encode() in command(pid) for pid in all_processes()):
            found.append("a process of a program is still there")
        return found

    def left(self) -> list[int]:
        """Processes below this one that came with the program and still run."""
        return [pid for pid in launcher.descendants(os.getpid()) if pid not in self.others and alive(pid)]


def wait_until(condition, seconds=60):
    """Wait for a condition, and return whether it holds at last."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def command(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()[:200]
    return b""


def all_processes():
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def anonymous(pid):
    """Bytes of memory of a process that no file stands for: proc_pid_statm(5)."""
    with contextlib.suppress(OSError):
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    return 0


@pytest.fixture(scope="module")
def planted():
    """Files, a process and servers, all open to the user that programs run as, so that rights alone keep nobody out."""
    nobody = (65534, 65534) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    secret = "flextune-secret-" + secrets.token_hex(8)
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=OWN_FOLDER))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        temporary = folder / "temporary"
        temporary.mkdir()
        home = Path.home() / f".{OWN_FOLDER}{secrets.token_hex(4)}"
        stack.callback(home.unlink, missing_ok=True)
        here = Path(f"{OWN_FOLDER}{secrets.token_hex(4)}").absolute()
        stack.callback(here.unlink, missing_ok=True)
        files = (folder / "secret", temporary / "secret", home, here)
        abstract = "flextune-" + secrets.token_hex(8)
        address = ("127.0.0.1", 0)
        servers = {}
        for name, kind, at in (
            ("socket", socket.SOCK_STREAM, str(folder / "socket")),
            ("abstract", socket.SOCK_STREAM, f"\0{abstract}"),
            ("datagrams", socket.SOCK_DGRAM, str(folder / "datagrams")),
            ("abstract2", socket.SOCK_DGRAM, f"\0{abstract}2"),
        ):
            servers[name] = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            servers[name].bind(at)
            if kind == socket.SOCK_STREAM:
                servers[name].listen(100)
        for name in ("socket", "datagrams"):
            os.chown(folder / name, *nobody)
        tcp = stack.enter_context(socket.create_server(address, backlog=100))
        folder.chmod(0o777)
        temporary.chmod(0o777)
        identity = {"user": nobody[0], "group": nobody[1], "extra_groups": []} if os.geteuid() == 0 else {}
        process = subprocess.Popen(
            ["/bin/sh", "-c", "read line", secret],
            stdin=subprocess.PIPE,
            env={"PATH": os.defpath, "FLEXTUNE_SECRET": secret},
            start_new_session=True,
            cwd=folder,
            **identity,
        )
        stack.callback(process.wait)
        stack.callback(os.killpg, process.pid, signal.SIGKILL)
        words = {
            "secret": folder / "secret",
            "home": home,
            "cwd": here,
            "temporary": temporary / "secret",
            "folder": folder,
            "pid": process.pid,
            "test": os.getpid(),
            "port": tcp.getsockname()[1],
            "socket": folder / "socket",
            "datagrams": folder / "datagrams",
            "abstract": abstract,
            "marker": 1_000_000_000 + secrets.randbelow(1 << 30),
            "namespaces": " ".join(
                str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("user", "pid", "net", "ipc", "uts")
            ),
        }
        yield Host(folder, temporary, words, process.pid, secret, files, nobody)


@pytest.fixture
def host(planted, monkeypatch):
    """The engine keeps its folders in the planted one, and what it leaves behind comes to this process."""
    monkeypatch.setattr(tempfile, "tempdir", str(planted.temporary))
    monkeypatch.setenv("FLEXTUNE_SECRET", planted.secret)
    monkeypatch.setattr(javac, "PATIENCE", 4.0)
    planted.plant()
    before = frozenset(launcher.descendants(os.getpid()))
    libc = ctypes.CDLL(None)
    libc.prctl(SUBREAPER, 1, 0, 0, 0)
    yield replace(planted, others=before)
    libc.prctl(SUBREAPER, 0, 0, 0, 0)


class Growth:
    """The most that memory below this process, files in memory and disk of the machine grew meanwhile, in MB.

    Pages that forked processes share are counted once for each.
    """

    def __init__(self, folder):
        self.folder = folder
        self.most = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch, args=(self.used(),))

    def used(self):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        kernel = sum(int(lines[name].split()[0]) << 10 for name in ("Shmem", "SUnreclaim"))
        own = sum(anonymous(pid) for pid in (os.getpid(), *launcher.descendants(os.getpid())))
        return own + kernel, shutil.disk_usage(self.folder).used

    def watch(self, first):
        while not self.done.wait(0.02):
            self.most = max(self.most, *(now - before >> 20 for now, before in zip(self.used(), first, strict=True)))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def test_what_a_process_takes_is_seen(tmp_path):
    code = "kept = b'1' * (300 << 20); input()"
    with Growth(tmp_path) as growth:
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
        seen = wait_until(lambda: growth.most >= 300)
        process.communicate(b"end\n")
    assert seen


def assembled(program, words, code=None):
    text = completion(program) if code is None else code
    for word, value in words.items():
        text = text.replace(f"@{word}@", str(value))
    return Program(program.name, 0, program.language, prompt(program.language, text), text, TESTS[program.language])


def possible(program):
    if find_tool(program.language) is None:
        pytest.skip(f"there is no toolchain for {program.language}")
    if "calls" in program.name and platform.machine() != "x86_64":
        pytest.skip("the numbers of system calls are those of x86_64")


def ids(program):
    return f"{program.language}-{program.name.replace(' ', '-')}"


def limits(program):
    """What a program gets: little time only where running out of it is a right end."""
    patient = {} if {"timeout", "compile_timeout"} & set(program.verdicts) else PATIENT
    return Limits(**{**LIMITS, **patient, **program.limits})


def judged_or_hung(programs, settings):
    """Their verdicts, from another thread: an engine that hangs fails the test and does not stop it."""
    verdicts = Future()

    def work():
        try:
            verdicts.set_result(execute(programs, settings))
        except BaseException as error:
            verdicts.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return verdicts.result(HUNG)


@pytest.fixture
def patience(monkeypatch):
    """The engine gives right programs time enough, in the room of a program that gets little of it."""
    judge = engine.judge
    given = {}

    def patient(program, room, session):
        mine = given.setdefault(id(session), session.settings)
        right = program.completion == RIGHT[program.language]
        session.settings = replace(mine, limits=replace(mine.limits, **PATIENT)) if right else mine
        return judge(program, room, session)

    monkeypatch.setattr(engine, "judge", patient)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("program", PROGRAMS, ids=ids)
def test_hostile(program, layer, host, patience):
    possible(program)
    if problem(layer) is not None:
        pytest.skip(f"{layer}: {problem(layer)}")
    programs = [assembled(program, host.words), assembled(program, host.words, RIGHT[program.language])]
    settings = Execution(sandbox=layer, workers=1, limits=limits(program))
    with Growth(host.folder) as growth:
        hostile, right = judged_or_hung(programs, settings)
    broken = host.intact()
    assert hostile.verdict in program.verdicts, hostile
    assert program.says in hostile.detail
    assert host.secret not in hostile.detail
    assert right.verdict == "passed", right
    assert not broken
    assert not program.bomb or growth.most < GROWTH_MB, f"it took {growth.most} MB"


@pytest.mark.parametrize("program", [program for program in PROGRAMS if program.control], ids=ids)
def test_without_a_sandbox_they_get_out(program, host):
    """Else the programs above would show nothing."""
    possible(program)
    settings = Execution(sandbox="none", allow_unsandboxed=True, workers=1, limits=limits(program))
    assert execute([assembled(program, host.words)], settings)[0].verdict == "passed"


def test_the_next_program_finds_an_empty_folder(host):
    """Whatever the one before it left, and whatever rights it gave it."""
    leave = "    import os\n    os.makedirs('a/b')\n    open('a/file', 'w').close()\n    os.chmod('a', {mode})\n    return 2\n"
    empty = "    import os\n    return 2 if os.listdir('.') == [] else 0"
    for layer in LAYERS:
        if problem(layer) is not None:
            pytest.skip(f"{layer}: {problem(layer)}")
        codes = [*(leave.format(mode=mode) for mode in (0, 0o300, 0o777)), empty]
        programs = [
            Program("t", n, "python", prompt("python", code), code, TESTS["python"]) for n, code in enumerate(codes)
        ]
        found = execute(programs, Execution(sandbox=layer, workers=1, limits=Limits(**{**LIMITS, **PATIENT})))
        assert [verdict.verdict for verdict in found] == ["passed"] * 4
