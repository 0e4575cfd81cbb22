"""Call a function in a fresh process: its memory is measured from nothing, and given back at its end."""

import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flextune.errors import FlextuneError
from flextune.processes import end_with_parent

Result = TypeVar("Result")
LOOK = 0.5
"""Seconds from one call of `stop` to the next."""
GRACE = 10.0
"""Seconds in which a process that is to end can tidy up."""


class StoppedError(Exception):
    """The call was stopped before its end, because it was asked to."""


def alone(function: Callable[..., Result], *arguments: Any, stop: Callable[[], bool] | None = None) -> Result:
    """Call a function in a fresh process, which ends with this one; its errors are raised here.

    Args:
        function: Of a module, so that another process finds it.
        *arguments: Passed to it.
        stop: Called now and then; when it returns true the process is ended.

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
        raise FlextuneError("the process that this ran in was killed, perhaps for want of memory") from None
    except BaseException:
        end([process], GRACE)
        raise
    finally:
        process.join()
        receiver.close()
    if succeeded:
        return outcome  # type: ignore[no-any-return]
    raise outcome


def _call(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    tidy_when_ended()
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


def end(processes: Sequence[Any], grace: float) -> None:
    """Ask processes to end, and kill those that are still there after so many seconds."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.join(grace)
    finally:
        for process in processes:
            process.kill()


def tidy_when_ended() -> None:
    """Take `end`, and nothing else, as Ctrl-C: the one at the keyboard reaches every process, and is the parent's."""

    def ended(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, ended)
