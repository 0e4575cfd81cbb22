"""Call a function in a fresh process: its memory is measured from nothing, and given back at its end."""

import multiprocessing
import os
import pickle
import threading
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from flextune.errors import FlextuneError

Result = TypeVar("Result")
LOOK = 0.5
"""Seconds from one call of `stop` to the next."""


class StoppedError(Exception):
    """The call was stopped before its end, because it was asked to."""


def alone(function: Callable[..., Result], *arguments: Any, stop: Callable[[], bool] | None = None) -> Result:
    """Call a function in a fresh process, which ends with this one; its errors are raised here.

    Args:
        function: Of a module, so that another process finds it.
        *arguments: Passed to it.
        stop: Called now and then; when it returns true the process is killed.

    Raises:
        FlextuneError: The process was killed by somebody else.
        StoppedError: It was stopped.
    """
    fresh = multiprocessing.get_context("spawn")
    receiver, sender = fresh.Pipe(duplex=False)
    process = fresh.Process(target=_call, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        while not receiver.poll(LOOK if stop else None):
            if stop and stop():
                raise StoppedError
        succeeded, outcome = receiver.recv()
    except EOFError:
        raise FlextuneError(
            "the process of this trial was killed, perhaps for want of memory; what was finished is kept, the same "
            "command goes on"
        ) from None
    except BaseException:
        process.kill()
        raise
    finally:
        process.join()
        receiver.close()
    if succeeded:
        return outcome  # type: ignore[no-any-return]
    raise outcome


def _call(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    try:
        outcome = True, function(*arguments)
    except BaseException as error:
        error.add_note(traceback.format_exc())  # where it happened: the traceback itself stays in this process
        outcome = False, error
    try:
        pickle.loads(pickle.dumps(outcome))  # noqa: S301
    except Exception:  # an error with an __init__ of its own, or one that holds what cannot travel
        outcome = False, FlextuneError(f"{type(outcome[1]).__name__}: {outcome[1]}")
    sender.send(outcome)


def end_with_parent() -> None:
    """End this process when the one that started it is no more: a killed study takes its trials along."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
