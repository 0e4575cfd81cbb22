"""Call a function in a fresh process: its memory is measured from nothing, and given back at its end."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from flextune.errors import FlextuneError

Result = TypeVar("Result")


def alone(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a fresh process, which ends with this one; its errors are raised here.

    Raises `FlextuneError` if the process was killed.
    """
    fresh = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=fresh, initializer=_end_with_parent) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool:
        raise FlextuneError(
            "the process of this trial was killed, perhaps for want of memory; what was finished is kept, the same "
            "command goes on"
        ) from None


def _end_with_parent() -> None:
    """A study that is killed takes its trial along, so that the next one can go on with it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
