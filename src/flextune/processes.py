"""Several processes of one training, as torchrun and `accelerate launch` start them: one leads, the others follow.

The environment says which is which, so that nothing here needs torch before training does. And processes that this
package starts itself, which end with the one that started them.
"""

import multiprocessing
import os
import threading
from datetime import timedelta
from typing import Any


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among all."""
    return int(os.environ.get("RANK", "0"))


def leads() -> bool:
    """Whether this process is the one that writes files and talks."""
    return rank() == 0


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if count() > 1:
        _state().wait_for_everyone()


def part() -> None:
    """Let go of the other processes, once all have come here; without it one that ends first breaks their talk."""
    if count() > 1:
        _state().wait_for_everyone()
        _state().destroy_process_group()


def end_with_parent() -> None:
    """End this process when the one that started it is no more: who is killed takes along what it has started."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _state() -> Any:
    """Accelerate's; the first call makes the processes known to each other, over gloo where there is no GPU."""
    from accelerate import PartialState
    from accelerate.utils import is_cuda_available

    # the others wait for the first while it fetches and checks a model
    return PartialState(cpu=not is_cuda_available(), timeout=timedelta(hours=3))
