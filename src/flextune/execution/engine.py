"""The engine: programs are shared out over workers, each with a room of the sandbox."""

import os
import queue
import re
import threading
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

from flextune.errors import FlextuneError
from flextune.execution.judge import Finding, judge
from flextune.execution.program import Program
from flextune.execution.sandbox import Layer, Room, choose
from flextune.execution.session import Session
from flextune.execution.settings import Execution
from flextune.execution.toolchain import check_languages, missing_parts
from flextune.execution.verdict import Verdict
from flextune.languages import LANGUAGES, End

ENDLESS = re.compile(r"\bwhile\b|\buntil\b|\bloop\b|for\s*\(\s*;|\bfor\s*\{")
"""Loops that may never end: a program that runs into its time limit is best begun early."""


def execute(programs: Sequence[Program], settings: Execution | None = None) -> list[Verdict]:
    """Judge programs and return their verdicts in the same order.

    Raises `FlextuneError` if a toolchain or the sandbox is missing or fails.
    """
    settings = settings or Execution()
    layer = prepare(programs, settings)
    found = dict(judge_all(programs, layer, settings))
    return [found[position] for position in range(len(programs))]


def prepare(programs: Sequence[Program], settings: Execution) -> Layer:
    """Check toolchains and sandbox before anything runs; returns the sandbox layer."""
    languages = {program.language for program in programs}
    check_languages(languages)
    missing = missing_parts(languages, [program.prompt for program in programs])
    if missing:
        raise FlextuneError(missing)
    if not settings.compatible:
        _check_reports(programs)
    return choose(settings.sandbox, settings.allow_unsandboxed, settings.limits.disk_mb)


def _check_reports(programs: Sequence[Program]) -> None:
    """Stop if there are tests that cannot be made to report their end."""
    seen: set[tuple[str, str]] = set()
    for program in programs:
        tests = program.tests
        if isinstance(tests, str) and (program.language, tests) not in seen:
            seen.add((program.language, tests))
            try:
                LANGUAGES[program.language].report(tests, End("/dev/null", 0, 0))
            except FlextuneError as error:
                raise FlextuneError(f"{program.task_id}: {error}") from None


def judge_all(programs: Sequence[Program], layer: Layer, settings: Execution) -> Generator[tuple[int, Verdict]]:
    """Positions and verdicts as they are found; identical programs run once, doubtful ones again, alone, at the end."""
    same: dict[Program, list[int]] = {}
    for position, program in enumerate(programs):
        same.setdefault(_anonymous(program), []).append(position)
    if not same:
        return
    todo = sorted((programs[positions[0]] for positions in same.values()), key=_cost, reverse=True)
    workers = min(settings.workers or default_workers(settings), len(todo))
    session = Session(layer, settings, workers, Counter(program.language for program in same))
    try:
        doubtful = []
        for program, finding in _in_parallel(todo, session, workers):
            if finding.doubtful:
                doubtful.append(program)
            else:
                yield from _for_each(programs, same[_anonymous(program)], finding)
        for program, finding in _in_parallel(doubtful, session, 1):
            yield from _for_each(programs, same[_anonymous(program)], finding)
    finally:
        session.close()


def _anonymous(program: Program) -> Program:
    """What two programs that run the same have in common."""
    return replace(program, task_id="", sample=0)


def _for_each(programs: Sequence[Program], positions: list[int], finding: Finding) -> Generator[tuple[int, Verdict]]:
    for position in positions:
        program = programs[position]
        yield position, replace(finding.verdict, task_id=program.task_id, sample=program.sample)


def _cost(program: Program) -> tuple[bool, int, int]:
    """What a program is likely to cost, for the longest to come first."""
    tests = program.tests
    runs, length = (1, len(tests)) if isinstance(tests, str) else (len(tests.inputs), 0)
    endless = bool(ENDLESS.search(program.completion))
    return endless, runs, length + len(program.prompt) + len(program.completion)


def default_workers(settings: Execution) -> int:
    """As many as there are processors, and memory for."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return max(1, min(processors, memory // settings.limits.memory_mb))


def _in_parallel(programs: Sequence[Program], session: Session, workers: int) -> Iterator[tuple[Program, Finding]]:
    """Findings as they come. An error in a worker stops all of them, and is raised after what was found before it."""
    todo = deque(programs)
    found: queue.SimpleQueue[tuple[Program, Finding] | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        room: Room | None = None
        try:
            room = session.room()
            while todo:
                try:
                    program = todo.popleft()
                except IndexError:
                    break
                found.put((program, judge(program, room, session)))
        except BaseException as error:
            todo.clear()
            found.put(error)
        finally:
            try:
                if room is not None:
                    room.close()
            finally:
                found.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(programs)))]
    for thread in threads:
        thread.start()
    failure: BaseException | None = None
    try:
        for _ in threads:
            while (item := found.get()) is not None:
                if isinstance(item, BaseException):
                    failure = failure or item
                else:
                    yield item
    finally:
        todo.clear()
        for thread in threads:
            thread.join()
    if failure is not None:
        raise failure
