"""What is measured while training: `metrics.jsonl`, a row for each optimizer step.

`step, epoch, loss` (of the task, per token of the step), `kl` where the recipe has `training.kl`, `fourier_loss,
grad_norm, task_grad_norm, lora_A_norm, lora_B_norm, learning_rate`, with Sophia `sophia_unclipped, sophia_gamma,
sophia_curvature, sophia_refreshes`; `tokens` learned in the step and `tokens_per_second`; `seconds` of training until
then, without validation and checkpoints; `peak_memory_mb`. Where there was a validation also `validation_loss`, per
token over the whole set, and `perplexity`; before the first step a row of its own has these.
"""

import math
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from flextune import processes
from flextune.errors import DivergedError
from flextune.files import make_durable, read_jsonl, write_jsonl

WHOLE = ".whole"
"""A file that marks a checkpoint whose writing came to its end."""
LOGGED = (
    "kl",
    "fourier_loss",
    "grad_norm",
    "task_grad_norm",
    "lora_A_norm",
    "lora_B_norm",
    "learning_rate",
    "sophia_unclipped",
    "sophia_gamma",
    "sophia_curvature",
    "sophia_refreshes",
)
"""What a row takes from the trainer's log, where it is there."""
NAMED = {"loss": "the training loss", "eval_loss": "the validation loss"}


class Metrics(TrainerCallback):
    """Writes `metrics.jsonl`, moves the bar, marks whole checkpoints, and ends what should not go on.

    Training stops at a loss that is no number, which is an error, and when `patience` validations one after another
    were no better than the best.

    Args:
        path: The file; if training goes on after step `done`, its rows until then are kept.
        done: The optimizer step of the checkpoint that training goes on from; 0 at the start.
        step: Moves the bar.
        patience: See above; None goes on to the end.
    """

    def __init__(self, path: Path, done: int, step: Any, patience: int | None = None):
        self.path, self.step, self.patience = path, step, patience
        self.rows = [row for row in read_jsonl(path) if row["step"] <= done] if done and path.exists() else []
        self.seconds = self.rows[-1]["seconds"] if self.rows else 0.0
        self.started = 0.0

    @property
    def best(self) -> dict[str, Any] | None:
        """The row after whose step the validation loss was lowest, the first of several; None without validation."""
        validated = [row for row in self.rows if row["step"] and "validation_loss" in row]
        return min(validated, key=lambda row: row["validation_loss"], default=None)

    @property
    def patience_is_over(self) -> bool:
        """Whether too many validations were no better."""
        losses = [row["validation_loss"] for row in self.rows if row["step"] and "validation_loss" in row]
        return (
            self.patience is not None and bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= self.patience
        )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The clock runs from here to the log of the step, when the device is done with it."""
        self.started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One optimizer step is done."""
        self.step()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """One row for each step, and what a validation adds to it."""
        logs = logs or {}
        for key in ("loss", "eval_loss", *LOGGED):
            if key in logs and not math.isfinite(logs[key]):
                self._write(state)
                raise DivergedError(
                    f"{NAMED.get(key, key)} is {logs[key]} at step {state.global_step}: lower training.learning_rate "
                    f"(now {args.learning_rate:g}) or train with dtype: float32 or bfloat16"
                )
        if "eval_loss" in logs:
            if not self.rows or self.rows[-1]["step"] != state.global_step:
                self.rows.append({"step": state.global_step, "epoch": state.epoch or 0.0, "seconds": self.seconds})
            self.rows[-1] |= {"validation_loss": logs["eval_loss"], "perplexity": logs["eval_perplexity"]}
        if "loss" not in logs:
            return
        took = time.monotonic() - self.started
        self.seconds = round(self.seconds + took, 3)
        row: dict[str, Any] = {"step": state.global_step, "epoch": logs["epoch"], "loss": logs["loss"]}
        row |= {key: logs[key] for key in LOGGED if key in logs}
        row |= (
            {"tokens": logs["tokens"], "tokens_per_second": round(logs["tokens"] / took, 1)} if "tokens" in logs else {}
        )
        self.rows.append(row | {"seconds": self.seconds, "peak_memory_mb": peak_memory_mb()})

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A validation is over; enough of them in vain end the training."""
        if self.patience_is_over:
            control.should_training_stop = True
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint was written, by all processes: its metrics first, then the mark, then older ones go."""
        processes.wait_for_all()
        self._write(state)
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            make_durable(checkpoint)
            (checkpoint / WHOLE).touch()
            _discard_older(checkpoint, state.best_model_checkpoint)
        processes.wait_for_all()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training is over."""
        self._write(state)

    def _write(self, state: Any) -> None:
        if state.is_world_process_zero:
            write_jsonl(self.path, self.rows)


def _discard_older(last: Path, best: str | None) -> None:
    """Keep the last checkpoint, and the best or else the one before; the trainer's own way removes before the mark."""
    step = {path: int(path.name.rpartition("-")[2]) for path in last.parent.glob("checkpoint-*")}
    others = sorted(
        (path for path in step if path != last), key=lambda path: (path.name == Path(best or "").name, step[path])
    )
    for path in others[:-1]:
        (path / WHOLE).unlink(missing_ok=True)  # first: one that is half removed is not gone on from
        shutil.rmtree(path, ignore_errors=True)


def peak_memory_mb() -> int:
    """The most memory that was held: of the GPU since training began, or of the machine since the process began."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() / 2**20)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
