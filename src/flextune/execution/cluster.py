"""The same engine on the machines of a Ray cluster that is there already.

The driver cuts the programs into groups; a group is judged by one task, with a session of its own, on a machine with
the same sandbox and the same toolchains. A task whose machine is lost is run again elsewhere; what counts is the answer
that reaches the driver, once for each group, so no verdict is lost or doubled.
"""

import socket
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from flextune.errors import FlextuneError
from flextune.execution.engine import judge_all, prepare
from flextune.execution.program import Program
from flextune.execution.settings import Execution
from flextune.execution.toolchain import tool_version
from flextune.execution.verdict import Verdict

GROUP = 64
"""Programs of one task: enough for a warm compiler to pay, few enough to share out evenly."""


def judge_on_ray(
    programs: Sequence[Program], settings: Execution, expected: dict[str, Any]
) -> Generator[tuple[int, Verdict]]:
    """Positions and verdicts as groups come back.

    Args:
        programs: What to judge.
        settings: `ray` is the address of the cluster; `workers` bounds the tasks at once.
        expected: The sandbox layer and the toolchains here, which every machine has to have too.

    Raises `FlextuneError` if there is no Ray or no cluster, or if a machine differs or fails.
    """
    ray = connect(settings.ray or "auto", "execution.ray")
    task = ray.remote(num_cpus=1, max_retries=20, scheduling_strategy="SPREAD")(judge_group)
    alone = replace(settings, workers=1, ray=None)
    groups = [list(range(start, min(start + GROUP, len(programs)))) for start in range(0, len(programs), GROUP)]
    waiting: dict[Any, list[int]] = {}
    try:
        while groups or waiting:
            while groups and len(waiting) < (settings.workers or len(programs)):
                positions = groups.pop()
                waiting[task.remote([programs[position] for position in positions], alone, expected)] = positions
            for done in ray.wait(list(waiting))[0]:
                yield from zip(waiting.pop(done), ray.get(done), strict=True)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise FlextuneError(f"a machine of the cluster failed: {cause}") from None
    finally:
        for job in waiting:
            ray.cancel(job, force=True)


def connect(address: str, key: str) -> Any:
    """Ray, connected to the cluster at an address, which stands under `key` in error messages."""
    try:
        import ray
    except ImportError:
        raise FlextuneError("ray is not installed: pip install 'flextune[ray]'") from None
    try:
        _reach(address)
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise FlextuneError(f"{key} = {address!r}: there is no cluster ({error})") from None
    return ray


def _reach(address: str) -> None:
    """Raise `OSError` at once if nothing answers there: Ray itself would go on trying for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def judge_group(programs: list[Program], settings: Execution, expected: dict[str, Any]) -> list[Verdict]:
    """Judge a group on this machine. Raises `FlextuneError` if it is not like the driver's."""
    layer = prepare(programs, settings)
    languages = {program.language for program in programs}
    here = {"sandbox": layer.name, **{name: tool_version(name) for name in sorted(languages)}}
    differing = {key: (value, expected[key]) for key, value in here.items() if value != expected[key]}
    if differing:
        said = "; ".join(f"{key} is {value!r} there, {wanted!r} here" for key, (value, wanted) in differing.items())
        raise FlextuneError(f"{socket.gethostname()} would judge differently: {said}")
    found = dict(judge_all(programs, layer, settings))
    return [found[position] for position in range(len(programs))]
