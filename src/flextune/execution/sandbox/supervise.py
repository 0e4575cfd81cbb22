"""One job from its start to its end: output drained always, and ended with all that it started when it goes over.

Processor time and memory are counted over everything that comes from the job, not for each process alone.
"""

import contextlib
import math
import os
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flextune.execution.sandbox.launcher import descendants
from flextune.execution.sandbox.layer import IN_MEMORY, Files, Job, Room, Running

KEPT = 4096
"""Bytes of output kept from its start and from its end."""
FIRST_LOOK, LOOK = 0.25, 0.1
"""Seconds after which the use of processor and memory is looked at, and then how often."""
MOST_FILES = 100_000
"""In a file system in memory: bytes are bounded there, but each empty file takes a kilobyte of the kernel's memory."""
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

Stopped = Literal["", "cpu", "wall", "memory", "disk", "output"]


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What a job may use in all."""

    cpu_seconds: float
    wall_seconds: float
    memory_mb: int
    disk_mb: int
    output_bytes: int


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: int
    """Exit status; 128 + n for signal n."""
    stopped: Stopped
    """What it had too much of, if anything."""
    output: bytes
    """Standard output; head and tail only, unless it was asked for whole."""
    errors: bytes
    """Standard error; head and tail only."""
    seconds: float
    cpu_seconds: float
    compiled: bool


class Report:
    """A pipe on which the tests report their end: what was written cannot be changed by the program."""

    def __init__(self) -> None:
        self._read, self.write = os.pipe()
        os.fchmod(self.write, 0o222)  # it is opened by name, as nobody, and only to write
        os.set_blocking(self._read, False)

    def name(self, room: Room) -> str:
        """Under which a program in that room opens it."""
        return f"/dev/fd/{room.report_number or self.write}"

    def read(self) -> bytes:
        """What was written."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._read, 1 << 16)
        return b""

    def close(self) -> None:
        """Give its files back."""
        os.close(self._read)
        os.close(self.write)


def supervise(
    room: Room,
    job: Job,
    allowed: Allowance,
    stdin: int | None = None,
    whole: bool = False,
    report: Report | None = None,
) -> Outcome:
    """Run a job in a room until it ends or has used what it may.

    Args:
        room: Where.
        job: What.
        allowed: How much.
        stdin: An open file; nothing by default.
        whole: Keep all of the standard output.
        report: A pipe that the job gets too.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as files:
        reading, writing = [], []
        for _ in range(2):
            ends = os.pipe()
            reading.append(ends[0])
            writing.append(ends[1])
            files.callback(os.close, ends[0])
        try:
            nothing = os.open(os.devnull, os.O_RDONLY)
            writing.append(nothing)
            given = Files(
                stdin=nothing if stdin is None else stdin,
                stdout=writing[0],
                stderr=writing[1],
                report=report.write if report else None,
            )
            running = room.start(job, given)
        finally:
            for file in writing:
                os.close(file)
        out, err = _Kept(reading[0], whole), _Kept(reading[1])
        watch = _Watch(running, room.usage(), allowed, started)
        stopped: Stopped = "wall"
        try:
            stopped = _drain(running, (out, err), watch, allowed)
        finally:
            if stopped:
                running.kill()
        ended = running.finish()
        seconds = time.monotonic() - started
        for kept in (out, err):
            kept.rest()
        cpu = max(ended.cpu_seconds, watch.cpu_seconds)
        if not stopped and cpu >= allowed.cpu_seconds:
            stopped = "cpu"
        return Outcome(ended.status, stopped, out.bytes, err.bytes, seconds, cpu, ended.compiled)


class _Kept:
    """What is kept of one stream."""

    def __init__(self, file: int, whole: bool = False) -> None:
        self.file = file
        self.total = 0
        self._whole = whole
        self._bytes = bytearray()
        os.set_blocking(file, False)

    def read(self) -> bool:
        """Read what is there; false at the end."""
        chunk = os.read(self.file, 1 << 16)
        self.total += len(chunk)
        self._bytes += chunk
        if not self._whole and len(self._bytes) > 4 * KEPT:
            del self._bytes[KEPT:-KEPT]
        return bool(chunk)

    def rest(self) -> None:
        """Read what is left when nobody writes any more."""
        with contextlib.suppress(BlockingIOError):
            while self.read():
                pass

    @property
    def bytes(self) -> bytes:
        return bytes(self._bytes)


def _drain(running: Running, streams: tuple[_Kept, ...], watch: "_Watch", allowed: Allowance) -> Stopped:
    """Read until the job ends; why it has to be ended, if it has to be."""
    poll = select.poll()
    poll.register(running, select.POLLIN)
    open_streams = {stream.file: stream for stream in streams}
    for file in open_streams:
        poll.register(file, select.POLLIN)
    while True:
        ended = False
        for file, _ in poll.poll(watch.seconds_to_look() * 1000):
            if file not in open_streams:
                ended = True
            elif not open_streams[file].read():
                poll.unregister(file)
        if sum(stream.total for stream in streams) > allowed.output_bytes:
            return "output"
        if ended:
            return ""
        stopped = watch.look()
        if stopped:
            return stopped


class _Watch:
    """Looks at what a job uses, now and then."""

    def __init__(self, running: Running, folder: Path | None, allowed: Allowance, started: float) -> None:
        self._running = running
        self._folder = folder
        self._allowed = allowed
        self._end = started + allowed.wall_seconds
        self._next = started + FIRST_LOOK
        self.cpu_seconds = 0.0

    def seconds_to_look(self) -> float:
        return max(0.0, min(self._next, self._end) - time.monotonic())

    def look(self) -> Stopped:
        now = time.monotonic()
        if now < self._next and now < self._end:
            return ""
        self._next = now + LOOK
        used, memory = usage(self._running.pid)
        self.cpu_seconds = max(self.cpu_seconds, used - self._running.cpu_before)
        if self.cpu_seconds >= self._allowed.cpu_seconds:
            return "cpu"
        if memory > self._allowed.memory_mb << 20:
            return "memory"
        if self._folder is not None and _size(self._folder) > self._allowed.disk_mb << 20:
            return "disk"
        if _files_in_memory(self._running.pid) > MOST_FILES:
            return "disk"
        return "wall" if now >= self._end else ""


def usage(pid: int) -> tuple[float, int]:
    """Processor seconds and bytes of memory of a process and all that come from it (Linux; elsewhere 0, 0)."""
    ticks, pages, pids = 0, 0, []
    for process in (pid, *descendants(pid)):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
            ticks += sum(map(int, words[11:15]))
            pages += int(words[21])
            pids.append(process)
    memory = pages * PAGE
    if memory > 256 << 20 and len(pids) > 2:  # processes that were forked share pages
        memory = sum(_own_memory(process, memory // len(pids)) for process in pids)
    return ticks / TICKS, memory


def _files_in_memory(pid: int) -> int:
    """The most files in a file system in memory of a job with a root of its own; 0 where that is not told."""
    most = 0
    with contextlib.suppress(OSError):
        root = Path(f"/proc/{[pid, *descendants(pid)][-1]}/root")
        if not root.samefile("/"):
            for path in IN_MEMORY:
                told = os.statvfs(f"{root}{path}")
                most = max(most, told.f_files - told.f_ffree)
    return most


def _own_memory(process: int, otherwise: int) -> int:
    """Memory with each shared page divided among those that share it; `otherwise` where that is not told."""
    with contextlib.suppress(OSError, StopIteration):
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) << 10
    return otherwise


def _size(folder: Path) -> float:
    """Bytes on disk under a folder; without end if a folder in it cannot be read."""
    total = 0
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            continue  # gone since
        except OSError:
            return math.inf
    return total
