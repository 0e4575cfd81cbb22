"""Several processes that do the same work until none is left: on this machine, or on those of a Ray cluster."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

from flextune.errors import FlextuneError
from flextune.execution.cluster import connect
from flextune.processes import end_with_parent
from flextune.studies.process import GRACE, end, tidy_when_ended


def on_this_machine(work: Callable[..., None], arguments: tuple[Any, ...], workers: int) -> None:
    """Call `work(*arguments, number)` in so many processes, each with the GPU of its number if there are any.

    They end with this process. Raises `FlextuneError` if one was killed or failed.
    """
    fresh = multiprocessing.get_context("spawn")
    started = [fresh.Process(target=_worker, args=(work, arguments, number, workers)) for number in range(workers)]
    for process in started:
        process.start()
    try:
        for process in started:
            process.join()
    except BaseException:
        end(started, 2 * GRACE)  # each waits for its trial
        raise
    if any(process.exitcode for process in started):
        raise FlextuneError("a worker failed or was killed; what was finished is kept, the same command goes on")


def _worker(work: Callable[..., None], arguments: tuple[Any, ...], number: int, workers: int) -> None:
    import torch

    end_with_parent()
    tidy_when_ended()
    if count := torch.cuda.device_count():
        allowed = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        os.environ["CUDA_VISIBLE_DEVICES"] = allowed.split(",")[number % count]
    else:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    try:
        work(*arguments, number)
    except KeyboardInterrupt:
        sys.exit(1)  # whoever asked for it knows


def on_a_cluster(work: Callable[..., None], arguments: tuple[Any, ...], workers: int, address: str) -> None:
    """The same as tasks of a Ray cluster, each with a GPU if the cluster has any.

    A task whose machine is lost is begun again elsewhere. Raises `FlextuneError` if there is no cluster, or it fails.
    """
    ray = connect(address, "ray")
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=20, scheduling_strategy="SPREAD")(work)
    try:
        ray.get([task.remote(*arguments, number) for number in range(workers)])
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise FlextuneError(f"a machine of the cluster failed: {cause}; the same command goes on") from None
