"""Completion tokens learned in a second, and memory, beside TRL and beside the usual script.

    python benchmarks/training.py --data FOLDER [--models smollm2-135m,/path/to/qwen2.5-coder-0.5b] [--profile]
    python benchmarks/training.py --data FOLDER --device cuda --random-7b

One task for all: MBPP, the same examples in the same batches of four, LoRA on the MLP with rank 8 and the same first
values (no dropout, so that the losses can be compared), AdamW, one precision. Work is what is learned: tokens of
completions with their end of text.

- flextune: examples one after the other in one row, logits only where the next token is learned;
- TRL: `SFTTrainer` with its defaults, and with each of the settings that could be its fastest;
- the usual script: `transformers.Trainer`, every example padded to 512 tokens, logits of all of them, the loss on the
  completion.

Each contender runs in a fresh process, a step to warm up and `--steps` that count, and they take turns in `--rounds`;
the time of each step is the least of the rounds, because other work on the machine only adds to it. Where fewer cores
were busy than there are, even in the best round, there was such work. Memory is the highest resident size of the
process (on a GPU: of the allocator).

`--profile` shows for flextune what share of the machine's speed at matrix multiplication a step reaches, and where the
rest goes. `--random-7b` adds Code Llama 7B's shape with random weights. Prints the tables and writes them to
benchmarks/results/training.md.
"""

import argparse
import importlib.metadata
import json
import random
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from flextune import Adapter
from flextune.models import ModelSource, find_model, load_model
from flextune.rundir import machine
from flextune.tasks import load_training_set
from flextune.tuning.adapters import add_adapter
from flextune.tuning.batching import IGNORED, Collator, packing_is_exact, tokenize

RESULTS = Path(__file__).parent / "results" / "training.md"
BATCH, LONGEST, RANK = 4, 512, 8
RANDOM_7B = "random-7b"

PLAIN = {"gradient_checkpointing": False, "max_length": None}
TRL: dict[str, dict[str, Any]] = {
    "TRL, its defaults (but for the precision; it recomputes activations)": {},
    "TRL, nothing recomputed": PLAIN,
    "TRL, … sorted by length": PLAIN,
    "TRL, … padding_free": {**PLAIN, "padding_free": True},
    # a pack has about as many tokens as a batch; these are other batches than everybody else's
    "TRL, … packing": {**PLAIN, "packing": True, "max_length": 768, "per_device_train_batch_size": 1},
}
"""Settings of `SFTConfig`. The fused AdamW, the loss on completions, and a head that computes its logits in tiles are
defaults, and 1.16 has no other head."""
CONTENDERS = ("flextune", *TRL, "the usual script, padded to 512")


def rows_of(tokenizer: Any, data: str, count: int) -> list[dict[str, list[int]]]:
    """Examples drawn from all of MBPP's training split, so that their lengths are its lengths."""
    rows = tokenize(load_training_set("mbpp", data).examples, tokenizer, LONGEST).rows
    return random.Random(0).sample(rows, count)


def learned(rows: list[dict[str, list[int]]]) -> int:
    """Tokens that the loss is taken on."""
    return sum(label != IGNORED for row in rows for label in row["labels"])


def source_of(name: str) -> ModelSource:
    """The model's folder; random weights go with the embedded model's tokenizer."""
    return find_model("smollm2-135m" if name == RANDOM_7B else name)


def model_of(name: str, dtype: str, device: str) -> tuple[Any, Any]:
    """A model with a fresh adapter, and a tokenizer."""
    base, tokenizer = load_model(source_of(name), dtype)
    if name == RANDOM_7B:
        config = LlamaConfig(vocab_size=len(tokenizer))  # but for the vocabulary the defaults are Llama 7B's
        with torch.device(device):
            base = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    torch.manual_seed(0)
    return add_adapter(base.to(device), Adapter(targets="mlp", rank=RANK, dropout=0.0)), tokenizer


def padded_to_512(pad_token_id: int) -> Any:
    """The collator of the usual script."""

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        def filled(key: str, value: int) -> torch.Tensor:
            return torch.tensor([row[key] + [value] * (LONGEST - len(row[key])) for row in rows])

        mask = torch.tensor([[i < len(row["labels"]) for i in range(LONGEST)] for row in rows]).long()
        return {
            "input_ids": filled("input_ids", pad_token_id),
            "labels": filled("labels", IGNORED),
            "attention_mask": mask,
        }

    return collate


def trainer_of(contender: str, options: argparse.Namespace, folder: str) -> Trainer:
    """A trainer of this name, ready to train for one step to warm up and the steps that count."""
    model, tokenizer = model_of(options.model, options.dtype, options.device)
    rows = rows_of(tokenizer, options.data, BATCH * (1 + options.steps))
    common: dict[str, Any] = {
        "output_dir": folder,
        "max_steps": 1 + options.steps,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": options.device == "cpu",
        "dataloader_pin_memory": options.device == "cuda",
    }
    if contender not in TRL:
        if contender == "flextune":
            assert packing_is_exact(model)
            collate: Any = Collator(tokenizer.pad_token_id, packed=True)
        else:
            collate = padded_to_512(tokenizer.pad_token_id)
        arguments = TrainingArguments(**common, remove_unused_columns=False)
        return Trainer(model, arguments, data_collator=collate, train_dataset=rows)
    if "sorted" in contender:
        rows = sorted(rows, key=lambda row: len(row["input_ids"]))
    settings = {**common, "bf16": options.dtype == "bfloat16", **TRL[contender]}
    data = datasets.Dataset.from_list(rows)
    return SFTTrainer(model, SFTConfig(**settings), train_dataset=data, processing_class=tokenizer)


def run_one(contender: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, tokens, losses and peak memory of one contender, for a process of its own."""
    labels: list[int] = []
    ends: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(contender, options, folder)
        step = trainer.training_step

        def counted(model: nn.Module, inputs: dict[str, Any], *others: Any) -> torch.Tensor:
            labels.append(int((inputs["labels"] != IGNORED).sum()))
            return step(model, inputs, *others)

        class Clock(transformers.TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                if options.device == "cuda":
                    torch.cuda.synchronize()
                ends.append((time.perf_counter(), time.process_time()))

        trainer.training_step = counted  # type: ignore[method-assign]
        trainer.add_callback(Clock())
        trainer.train()
    losses = [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if options.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    seconds = [end[0] - begin[0] for begin, end in pairwise(ends)]
    cores = (ends[-1][1] - ends[0][1]) / sum(seconds)
    return {"seconds": seconds, "cores": cores, "learned": labels[1:], "losses": losses, "peak": peak}


def in_its_own_process(contender: str, model: str, options: argparse.Namespace) -> Any:
    """What `run_one` or `profile` returns."""
    command = [sys.executable, __file__, "--data", options.data, "--device", options.device, "--dtype", options.dtype]
    command += ["--steps", str(options.steps), "--model", model, "--contender", contender]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"  {contender}: {found}", flush=True)
    return found


def compare(model: str, options: argparse.Namespace) -> list[str]:
    """The table of one model."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for turn in range(options.rounds):
        for name in list(found)[:: 1 if turn % 2 == 0 else -1]:
            found[name].append(in_its_own_process(name, model, options))
    seconds = {
        name: [min(times) for times in zip(*(run["seconds"] for run in runs), strict=True)]
        for name, runs in found.items()
    }
    speeds = {name: sum(found[name][0]["learned"]) / sum(seconds[name]) for name in found}
    best = max(TRL, key=lambda name: speeds[name])
    rows: list[list[object]] = []
    for name, runs in found.items():
        rows.append([name + (" (TRL's fastest)" if name == best else ""), f"{statistics.mean(seconds[name]):.2f}"])
        rows[-1] += [f"{speeds[name]:.2f}", f"**{speeds['flextune'] / speeds[name]:.2f}**"]
        rows[-1] += [f"{statistics.median(run['peak'] for run in runs) / 2**30:.2f}"]
        rows[-1] += [f"{max(run['cores'] for run in runs):.2f}", ", ".join(f"{x:.4f}" for x in runs[0]["losses"])]
    head = ["", "seconds a step", "learned tokens/s", "flextune is × as fast", "peak GiB", "cores busy", "losses"]
    tokenizer = AutoTokenizer.from_pretrained(source_of(model).path)
    counted = rows_of(tokenizer, options.data, BATCH * (1 + options.steps))[BATCH:]
    size = sum(len(row["input_ids"]) for row in counted)
    return [
        f"## {Path(model).name}",
        f"{size} tokens in {options.steps} steps of {BATCH} examples, of which {learned(counted)} are learned.",
        table(head, rows),
    ]


def speed_of_multiplication(tokens: int, shapes: set[tuple[int, int]], dtype: torch.dtype, device: str) -> float:
    """The most floating-point operations in a second over the model's own shapes."""
    best = 0.0
    for inputs, outputs in shapes:
        x, w = (
            torch.randn(tokens, inputs, dtype=dtype, device=device),
            torch.randn(outputs, inputs, dtype=dtype, device=device),
        )
        for _ in range(7):
            synchronize(device)
            started = time.perf_counter()
            torch.mm(x, w.t())
            synchronize(device)
            best = max(best, 2 * tokens * inputs * outputs / (time.perf_counter() - started))
    return best


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def kind_of(name: str, shapes: Any, vocabulary: int) -> str:
    """The part of a step that an operator belongs to, by its name and its operands."""
    sizes = {size for shape in shapes if isinstance(shape, (list, tuple)) for size in shape if isinstance(size, int)}
    if "attention" in name:
        return "attention"
    if "fused_adam" in name or "_foreach" in name:
        return "optimizer and clipping"
    if RANK in sizes:
        return "LoRA (operands of its rank)"
    if "nll_loss" in name or "log_softmax" in name or (vocabulary in sizes and "mm" in name):
        return "logits and loss"
    if name in ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "aten::matmul"):
        return "matrix multiplications"
    pointwise = (
        "add",
        "mul",
        "div",
        "neg",
        "silu",
        "rsqrt",
        "pow",
        "mean",
        "sum",
        "copy",
        "cat",
        "fill",
        "zero",
        "sub",
    )
    if any(name.startswith(f"aten::{word}") or name.startswith(f"aten::_{word}") for word in pointwise):
        return "pointwise"
    return "other"


def profile(model_name: str, options: argparse.Namespace) -> list[str]:
    """What a step of flextune reaches of the machine, and where its time goes."""
    from torch.profiler import ProfilerActivity
    from torch.utils.flop_counter import FlopCounterMode

    model, tokenizer = model_of(model_name, options.dtype, options.device)
    rows = rows_of(tokenizer, options.data, BATCH)
    batch = Collator(tokenizer.pad_token_id, packed=True)(rows)
    batch = {
        key: value.to(options.device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()
    }
    factors = [parameter for parameter in model.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(factors, lr=2e-4, fused=True)

    def step() -> None:
        model(**batch, num_items_in_batch=learned(rows)).loss.backward()
        nn.utils.clip_grad_norm_(factors, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        synchronize(options.device)

    step()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    with FlopCounterMode(display=False) as counter:
        step()
    work = counter.get_total_flops()
    linear = {(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)}
    tokens, vocabulary = batch["input_ids"].numel(), model.config.vocab_size
    shapes = {shape for shape in linear if RANK not in shape and vocabulary not in shape}
    peak = speed_of_multiplication(tokens, shapes, next(model.parameters()).dtype, options.device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (options.device == "cuda")
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        step()
    parts: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages(group_by_input_shape=True):
        own = event.self_device_time_total if options.device == "cuda" else event.self_cpu_time_total
        parts[kind_of(event.key, event.input_shapes, vocabulary)] += own
    total = sum(parts.values())
    shares = [
        [name, f"{own / 1e6:.2f}", f"{own / total:.1%}"] for name, own in sorted(parts.items(), key=lambda p: -p[1])
    ]
    return [
        f"A step of flextune on {tokens} tokens, {learned(rows)} of them learned: {work / 1e12:.2f} TFLOP in "
        f"{seconds:.2f} s are {work / seconds / 1e9:.0f} GFLOP/s, **{work / seconds / peak:.0%}** of the "
        f"{peak / 1e9:.0f} that `torch.mm` reaches on the best of the model's own shapes. Where the time goes "
        "(torch.profiler, each operator's own time):",
        table(["", "seconds", "share"], shares),
    ]


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder with mbpp.jsonl")
    parser.add_argument("--models", default="smollm2-135m")
    parser.add_argument("--random-7b", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="float32 on a CPU, bfloat16 on a GPU")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.dtype = options.dtype or ("float32" if options.device == "cpu" else "bfloat16")
    if options.contender:
        found = (
            profile(options.model, options) if options.contender == "profile" else run_one(options.contender, options)
        )
        print(json.dumps(found))
        return

    names = [name for name in options.models.split(",") if name] + [RANDOM_7B] * options.random_7b
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft", "trl")
    )
    text = [
        "# Training beside TRL and the usual script",
        f"`{shlex.join(['python', 'benchmarks/training.py', *sys.argv[1:]])}`",
        f"{json.dumps(machine())}, {where}, {versions}, {options.dtype}. {options.rounds} "
        "rounds, in each of which every contender has a process of its own.",
    ]
    for name in names:
        print(name, flush=True)
        text += compare(name, options)
        if options.profile:
            text += in_its_own_process("profile", name, options)
        print("\n\n".join(text), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    path = RESULTS if options.device == "cpu" else RESULTS.with_stem("training-gpu")
    path.write_text("\n\n".join(text) + "\n")
    print(f"written to {path}")


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)


if __name__ == "__main__":
    main()
