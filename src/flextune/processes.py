"""Several processes of one training, as torchrun and `accelerate launch` start them: one leads, the others follow.

The environment says which is which, so that nothing here needs torch before training does. And processes that this
package starts itself, which end with the one that started them.
"""

import multiprocessing
import os
import threading
from datetime import timedelta
from typing import Any

from flextune.errors import UsageError

CHANGES_THE_TRAINING = {
    "ACCELERATE_MIXED_PRECISION": ("no",),
    "ACCELERATE_DYNAMO_BACKEND": ("no",),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1",),
    "ACCELERATE_DOWNCAST_BF16": ("no", "false", "0"),
    "ACCELERATE_USE_DEEPSPEED": ("false", "no", "0"),
    "ACCELERATE_USE_MEGATRON_LM": ("false", "no", "0"),
    "ACCELERATE_TORCH_DEVICE": ("cpu", "cuda"),
}
"""What accelerate takes from the environment and a recipe says nothing of, with the values that change nothing."""
RECORDED = (
    "ACCELERATE_",
    "FSDP_",
    "CUBLAS_",
    "NVIDIA_TF32",
    "TORCH_",
    "PYTORCH_",
    "OMP_",
    "MKL_",
    "VLLM_",
    "WORLD_SIZE",
)
"""How the names of variables begin that may change a result in its last digits or how it is spread over devices."""
_START = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"),
)
_worker = False


def count() -> int:
    """How many processes there are."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """The number of this process among all; what an earlier start left in the environment of one alone says nothing."""
    return _number("RANK", 0) if count() > 1 else 0


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default


def leads() -> bool:
    """Whether this process is the one that writes files and talks."""
    return rank() == 0 and not _worker


def become_worker() -> None:
    """Let this process, which another one of flextune has started, leave files and messages to that one."""
    global _worker
    _worker = True


def check_environment() -> None:
    """Let the recipe alone decide how a training goes.

    Variables that would change it are refused, and those by which a launcher tells processes apart are removed where
    there is only one: another training may have left them.

    Raises `UsageError` with the variable.
    """
    for name, harmless in CHANGES_THE_TRAINING.items():
        value = os.environ.get(name)
        if value and value.lower() not in harmless:
            raise UsageError(
                f"{name} = {value!r} in the environment would change the training, and the recipe says nothing of it: "
                f"unset it (or with accelerate launch, give the option so that it is {harmless[0]!r}); the recipe's "
                "dtype and training.accumulation are the keys for that"
            )
    if count() == 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() not in ("1", "true"):
        for name in _START:
            os.environ.pop(name, None)


def environment() -> dict[str, str]:
    """The variables that are set here and may change a result, for the record."""
    return {
        name: value for name, value in sorted(os.environ.items()) if name.startswith(RECORDED) and "KEY" not in name
    }


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
