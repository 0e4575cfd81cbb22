"""The stage `train`: a recipe and a training set become `adapter/` and `training/metrics.jsonl`.

A killed run goes on from its last whole checkpoint and ends with the adapter of an undisturbed one.
"""

import math
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments, set_seed

from flextune.errors import FlextuneError
from flextune.files import read_jsonl, write_jsonl
from flextune.models import ModelSource, load_model
from flextune.progress import progress, say
from flextune.rundir import RunDirectory
from flextune.tasks import Example
from flextune.tuning.batching import Collator, tokenize
from flextune.tuning.fourier import FourierPenalty
from flextune.tuning.settings import PRESETS, Adapter, Penalty, Training
from flextune.tuning.trainer import SpectralTrainer

WHEN = ("start_step", "ramp_steps", "decoupled")
"""The keys of `Penalty` that say when and how it acts; the others say what it is."""
WHOLE = ".whole"
"""A file that marks a checkpoint whose writing came to its end."""

LOGGED = ("fourier_loss", "grad_norm", "task_grad_norm", "lora_A_norm", "lora_B_norm", "learning_rate")
"""What a row of metrics.jsonl takes from the trainer's log, where it is there."""


def train(
    source: ModelSource,
    examples: Sequence[Example],
    run: RunDirectory,
    *,
    training: Training,
    adapter: Adapter,
    penalty: Penalty,
    dtype: str = "auto",
    seed: int = 0,
) -> None:
    """Fine-tune with LoRA and the Fourier penalty; does nothing if `adapter/` is there.

    Raises `FlextuneError` if the loss stops being a number, or if no example fits.
    """
    if run.adapter.exists():
        return
    set_seed(seed)
    base, tokenizer = load_model(source, dtype)
    model = add_adapter(base, adapter)
    data = tokenize(examples, tokenizer, training.max_length)
    trainable, total = model.get_nb_trainable_parameters()
    say(
        f"Training {trainable:,} of {total:,} parameters ({trainable / total:.2%}) on {len(data.rows)} examples "
        f"of {training.dataset}"
        + (f"; {data.too_long} longer than {training.max_length} tokens left out" if data.too_long else "")
    )
    what = {key: value for key, value in asdict(penalty).items() if key not in WHEN}
    when = {key: value for key, value in asdict(penalty).items() if key in WHEN}
    # also with λ = 0, which changes nothing, for its figures in metrics.jsonl
    fourier = FourierPenalty(model, **what, seed=seed)
    steps_per_epoch = math.ceil(math.ceil(len(data.rows) / training.batch_size) / training.accumulation)
    steps = math.ceil(steps_per_epoch * training.epochs)
    arguments = TrainingArguments(
        output_dir=str(run.checkpoints),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule if training.schedule != "constant" else "constant_with_warmup",
        warmup_steps=math.ceil(steps * training.warmup),
        max_grad_norm=training.max_grad_norm,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=training.checkpoint_steps,
        save_total_limit=2,
        seed=seed,
        data_seed=seed,
        disable_tqdm=True,
        report_to="none",
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # several GPUs work as several processes; nn.DataParallel would multiply the batch
    checkpoint = last_checkpoint(run.checkpoints)
    done = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    if checkpoint:
        say(f"Going on with training after step {done} of {steps}")
    with progress(f"training on {training.dataset}", steps, done) as step:
        trainer = SpectralTrainer(
            model=model,
            args=arguments,
            train_dataset=data.rows,
            data_collator=Collator(tokenizer.pad_token_id),
            processing_class=tokenizer,
            penalty=fourier,
            **when,
            callbacks=[Metrics(run.metrics, done, step)],
        )
        trainer.callback_handler.callbacks = [
            callback for callback in trainer.callback_handler.callbacks if type(callback).__name__ != "PrinterCallback"
        ]
        with _room_on_disk(run.checkpoints, trainer):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            partial = run.adapter.with_name(f".{run.adapter.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            model.save_pretrained(partial)
            partial.replace(run.adapter)
    shutil.rmtree(run.checkpoints, ignore_errors=True)


def add_adapter(base: PreTrainedModel, adapter: Adapter) -> Any:
    """Put fresh LoRA factors (float32) beside the target modules; the base is frozen.

    Raises `FlextuneError` if the model has none of the target modules.
    """
    targets: Any = adapter.targets
    if isinstance(targets, str):
        targets = targets if targets == "all-linear" else list(PRESETS[targets])
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets,
    )
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise FlextuneError(f"adapter.targets = {adapter.targets!r} does not fit this model: {first}") from None


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones are removed."""
    whole = []
    for path in sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2])):
        if (path / WHOLE).exists():
            whole.append(path)
        else:
            shutil.rmtree(path)
    return whole[-1] if whole else None


@contextmanager
def _room_on_disk(checkpoints: Path, trainer: SpectralTrainer) -> Iterator[None]:
    """Say what to do when weights cannot be written; torch and safetensors each have an error of their own for that."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        text = str(error)
        if not any(sign in text for sign in ("No space left", "Disk quota", "PytorchStreamWriter", "unexpected pos")):
            raise
        last = last_checkpoint(checkpoints)  # also removes the half-written one
        kept = f"{last.name} is kept" if last else "there is no checkpoint yet"
        raise FlextuneError(
            f"there is no room on the disk of {checkpoints.parent} for the weights of step "
            f"{trainer.state.global_step}; {kept}: make room, and the same command goes on"
        ) from error


class Metrics(TrainerCallback):
    """Writes `metrics.jsonl`, moves the bar, marks whole checkpoints, and stops at a loss that is no number."""

    def __init__(self, path: Path, done: int, step: Any):
        self.path, self.step = path, step
        self.rows = [row for row in read_jsonl(path) if row["step"] <= done] if done and path.exists() else []
        self.before = self.rows[-1]["seconds"] if self.rows else 0.0
        self.started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One optimizer step is done."""
        self.step()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """One row for each logged step."""
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise FlextuneError(
                f"the training loss is {logs['loss']} at step {state.global_step}: lower training.learning_rate "
                f"(now {args.learning_rate:g}) or train with dtype: float32 or bfloat16"
            )
        seconds = round(self.before + time.monotonic() - self.started, 3)
        row: dict[str, Any] = {"step": state.global_step, "epoch": logs["epoch"], "loss": logs["loss"]}
        row |= {key: logs[key] for key in LOGGED if key in logs}
        self.rows.append(row | {"seconds": seconds, "peak_memory_mb": peak_memory_mb()})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint was written: its metrics first, then the mark."""
        write_jsonl(self.path, self.rows)
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training is over."""
        write_jsonl(self.path, self.rows)


def peak_memory_mb() -> int:
    """The most memory that this process has held: of the GPU if there is one, of the machine otherwise."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() / 2**20)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
