"""The stage: what it writes, what it keeps, and that it ends the same wherever it is killed."""

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
import torch
from transformers import TrainerState, TrainingArguments

from flextune.adapters import with_adapter
from flextune.errors import FlextuneError, UsageError
from flextune.files import read_json, read_jsonl, sha256, write_jsonl
from flextune.models import ModelSource, load_model
from flextune.pipeline import train_only
from flextune.recipe import load_recipe
from flextune.rundir import RunDirectory
from flextune.tasks import load_training_set
from flextune.tuning import metrics as measured
from flextune.tuning import train as stage
from flextune.tuning.adapters import add_adapter
from flextune.tuning.batching import Collator, tokenize
from flextune.tuning.metrics import WHOLE, Metrics
from flextune.tuning.settings import Adapter, Penalty, Training
from flextune.tuning.train import discard_half_written, last_checkpoint
from flextune.tuning.validation import loss_per_token

SHORT = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_steps": 2, "warmup": 0.0}


def train(tiny_model, tmp_path, *, adapter=None, source=None, name="run", hold_out=6, **settings):
    """Ten examples learned, six held out; the rows of metrics.jsonl and the run."""
    run = RunDirectory(tmp_path / name)
    examples = load_training_set("basics", limit=16).examples
    stage.train(
        source or ModelSource(tiny_model, {}),
        examples[6:],
        run,
        training=Training(**SHORT | settings),
        adapter=adapter or Adapter(rank=2, dropout=0.0),
        penalty=Penalty(strength=0.0),
        validation=examples[:hold_out],
        dtype="float32",
    )
    return list(read_jsonl(run.metrics)), run


def validation_loss(tiny_model, adapter=None, source=None, packed=False):
    """Measured anew: each held-out example in a batch of its own."""
    model, tokenizer = load_model(source or ModelSource(tiny_model, {}), "float32")
    if adapter is not None:
        model = with_adapter(model, adapter)
    rows = tokenize(load_training_set("basics", limit=6).examples, tokenizer, 512).rows
    collator = Collator(tokenizer.pad_token_id, packed=packed)
    return loss_per_token(model, [collator([row]) for row in rows])


def test_rows_say_what_was_measured(tiny_model, tmp_path):
    rows, run = train(tiny_model, tmp_path)
    assert [row["step"] for row in rows] == list(range(7))
    assert [row["step"] for row in rows if "validation_loss" in row] == [0, 2, 4, 6]
    assert rows[0]["validation_loss"] == pytest.approx(validation_loss(tiny_model), rel=1e-5)
    assert rows[0]["perplexity"] == pytest.approx(math.exp(rows[0]["validation_loss"]))
    _, tokenizer = load_model(ModelSource(tiny_model, {}))
    examples = load_training_set("basics", limit=16).examples[6:]
    learned = sum(label >= 0 for row in tokenize(examples, tokenizer, 512).rows for label in row["labels"])
    assert sum(row["tokens"] for row in rows[1:4]) == learned  # one epoch
    for row in rows[1:]:
        assert {"loss", "epoch", "grad_norm", "learning_rate", "tokens_per_second", "peak_memory_mb"} <= set(row)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert rows[-1]["loss"] < rows[1]["loss"]
    assert not run.checkpoints.exists()


def test_the_last_step_is_validated_too(tiny_model, tmp_path):
    rows, _ = train(tiny_model, tmp_path, checkpoint_steps=4)
    assert [row["step"] for row in rows if "validation_loss" in row] == [0, 4, 6]


def test_the_best_adapter_is_kept(tiny_model, tmp_path):
    rows, run = train(tiny_model, tmp_path, learning_rate=1.0, schedule="constant", epochs=4)
    losses = {row["step"]: row["validation_loss"] for row in rows[1:] if "validation_loss" in row}
    assert min(losses, key=losses.get) < max(losses)  # it became worse
    assert validation_loss(tiny_model, run.adapter) == pytest.approx(min(losses.values()), rel=1e-5)


def test_validation_sees_no_dropout(tiny_model, tmp_path):
    rows, run = train(tiny_model, tmp_path, adapter=Adapter(rank=2, dropout=0.5), learning_rate=0.1)
    best = min(row["validation_loss"] for row in rows[1:] if "validation_loss" in row)
    assert validation_loss(tiny_model, run.adapter) == pytest.approx(best, rel=1e-5)


def test_patience_ends_the_training(tiny_model, tmp_path):
    rows, run = train(tiny_model, tmp_path, learning_rate=1.0, schedule="constant", epochs=40, patience=2, validation=6)
    losses = [row["validation_loss"] for row in rows[1:] if "validation_loss" in row]
    assert rows[-1]["step"] < 120
    assert losses.index(min(losses)) == len(losses) - 3
    assert validation_loss(tiny_model, run.adapter) == pytest.approx(min(losses), rel=1e-5)


def test_killed_after_patience_was_over_it_takes_no_further_step(tiny_model, tmp_path, monkeypatch):
    settings = {"learning_rate": 1.0, "schedule": "constant", "epochs": 40, "patience": 2, "validation": 6}
    _, whole = train(tiny_model, tmp_path, name="whole", **settings)

    def dies(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "_save", dies)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, tmp_path, **settings)
    monkeypatch.undo()
    rows, run = train(tiny_model, tmp_path, **settings)
    assert sha256(run.adapter / "adapter_model.safetensors") == sha256(whole.adapter / "adapter_model.safetensors")
    assert rows[-1]["step"] == list(read_jsonl(whole.metrics))[-1]["step"]


@pytest.mark.parametrize("hold_out", [6, 0])
def test_killed_after_the_last_step_it_takes_no_further_one(tiny_model, tmp_path, monkeypatch, hold_out):
    settings = {"epochs": 1.5, "hold_out": hold_out}  # half an epoch, where the trainer would go on
    _, whole = train(tiny_model, tmp_path, name="whole", **settings)
    monkeypatch.setattr(stage, "_save", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, tmp_path, **settings)
    monkeypatch.undo()
    rows, run = train(tiny_model, tmp_path, **settings)
    assert sha256(run.adapter / "adapter_model.safetensors") == sha256(whole.adapter / "adapter_model.safetensors")
    assert [row["step"] for row in rows] == [row["step"] for row in read_jsonl(whole.metrics)]


@pytest.mark.parametrize(
    "settings", [{}, {"accumulation": 2}, {"epochs": 1.7}, {"batch_tokens": 600}, {"batch_size": 3}]
)
def test_the_bar_knows_how_many_steps_there_are(tiny_model, tmp_path, monkeypatch, settings):
    told = []
    monkeypatch.setattr(stage, "progress", lambda what, total, done: told.append(total) or nullcontext(lambda: None))
    rows, _ = train(tiny_model, tmp_path, **settings)
    assert told == [rows[-1]["step"]]


def test_a_run_that_was_moved_still_knows_its_best_checkpoint(tiny_model, tmp_path, monkeypatch):
    settings = {"learning_rate": 0.5, "epochs": 3}
    _, whole = train(tiny_model, tmp_path, name="whole", **settings)
    monkeypatch.setattr(Metrics, "on_train_end", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, tmp_path, name="before", **settings)
    monkeypatch.undo()
    (tmp_path / "before").rename(tmp_path / "after")
    last = last_checkpoint(tmp_path / "after" / "checkpoints")
    (last / WHOLE).unlink()  # so that it trains on from the one before
    _, run = train(tiny_model, tmp_path, name="after", **settings)
    assert sha256(run.adapter / "adapter_model.safetensors") == sha256(whole.adapter / "adapter_model.safetensors")


def test_sophia_learns_and_says_how_it_fares(tiny_model, tmp_path):
    rows, _ = train(tiny_model, tmp_path, optimizer="sophia", epochs=4)
    assert rows[-1]["loss"] < rows[1]["loss"]
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    assert all(0 < row["sophia_unclipped"] < 1 for row in rows[1:])
    assert [row["sophia_refreshes"] for row in rows[1:]] == [1, 2, 3, 3, 4, 4, 4, 4, 5, 5, 6, 6]
    assert rows[-1]["sophia_gamma"] > 0


def test_sophias_settings_arrive(tiny_model, tmp_path):
    sophia = {"gamma": 0.05, "refresh_every": 3, "estimator": "empirical_fisher"}
    rows, _ = train(tiny_model, tmp_path, optimizer="sophia", sophia=sophia)
    assert {row["sophia_gamma"] for row in rows[1:]} == {0.05}
    assert rows[-1]["sophia_refreshes"] == 5  # steps 0, 1, 2, 3 and 4


def test_token_budgets_make_other_batches_of_the_same_examples(tiny_model, tmp_path):
    rows, _ = train(tiny_model, tmp_path, batch_tokens=600, epochs=1)
    by_count, _ = train(tiny_model, tmp_path, name="count", epochs=1)
    assert sum(row["tokens"] for row in rows[1:]) == sum(row["tokens"] for row in by_count[1:])
    assert len(rows) != len(by_count)


@pytest.mark.parametrize("optimizer", ["adamw", "sophia"])
def test_activations_computed_anew_change_nothing(tiny_model, tmp_path, optimizer):
    settings = {"adapter": Adapter(rank=2, dropout=0.1), "optimizer": optimizer}
    _, run = train(tiny_model, tmp_path, **settings)
    _, again = train(tiny_model, tmp_path, name="again", gradient_checkpointing=True, **settings)
    assert sha256(run.adapter / "adapter_model.safetensors") == sha256(again.adapter / "adapter_model.safetensors")


def test_going_on_with_another_runs_adapter(tiny_model, tmp_path):
    rows, first = train(tiny_model, tmp_path, name="first")
    last = min(row["validation_loss"] for row in rows[1:] if "validation_loss" in row)
    again, second = train(tiny_model, tmp_path, name="second", adapter=Adapter(start=str(first.path)))
    assert again[0]["validation_loss"] == pytest.approx(last, rel=1e-5)
    assert again[-1]["loss"] < rows[-1]["loss"]
    assert validation_loss(tiny_model, second.adapter) < last


def test_another_runs_adapter_merged_into_the_base_first(tiny_model, tmp_path):
    rows, first = train(tiny_model, tmp_path, name="first")
    last = min(row["validation_loss"] for row in rows[1:] if "validation_loss" in row)
    source = ModelSource(tiny_model, {}, adapters=(first.adapter,))
    again, second = train(tiny_model, tmp_path, name="second", source=source)
    assert again[0]["validation_loss"] == pytest.approx(last, rel=1e-5)
    best = min(row["validation_loss"] for row in again[1:] if "validation_loss" in row)
    assert validation_loss(tiny_model, second.adapter, source) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize(
    "peft",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "OLoRA"},
        {"init_lora_weights": "gaussian"},
    ],
)
def test_the_saved_adapter_is_what_was_trained(tiny_model, tmp_path, peft):
    """Also where the initialisation took the factors out of the base weights."""
    rows, run = train(tiny_model, tmp_path, adapter=Adapter(rank=2, dropout=0.0, peft=peft))
    assert rows[0]["validation_loss"] == pytest.approx(validation_loss(tiny_model), rel=1e-4)
    best = min(row["validation_loss"] for row in rows[1:] if "validation_loss" in row)
    assert best < rows[0]["validation_loss"] - 0.01
    assert validation_loss(tiny_model, run.adapter) == pytest.approx(best, rel=1e-4)
    config = read_json(run.adapter / "adapter_config.json")
    assert config["init_lora_weights"] in (True, "gaussian")  # nothing that would change the weights when it is loaded
    assert config["r"] == (4 if peft.get("init_lora_weights") in ("pissa", "OLoRA") else 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_are_float32_beside_weights_of_16_bits(tiny_model, dtype):
    base, _ = load_model(ModelSource(tiny_model, {}), str(dtype).removeprefix("torch."))
    model = add_adapter(base, Adapter(rank=2))
    kinds = {p.dtype for name, p in model.named_parameters() if "lora" in name}
    assert kinds == {torch.float32}
    assert {p.dtype for name, p in model.named_parameters() if "lora" not in name} == {dtype}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains them")
def test_four_bits_do_not_train_on_a_processor(tiny_model, tmp_path):
    with pytest.raises(UsageError, match="quantization = 'nf4': 4-bit weights train on a GPU only"):
        train(tiny_model, tmp_path, source=ModelSource(tiny_model, {}, quantization="nf4"))


def test_full_memory_names_the_step_and_what_to_change(tiny_model, tmp_path, monkeypatch):
    calls = []

    def greedy(self, model, inputs, num_items_in_batch=None):
        calls.append(1)
        if len(calls) == 4:
            torch.empty(2**50)  # the allocator's own error
        return stage.SpectralTrainer.training_step(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(stage._Trainer, "training_step", greedy)
    monkeypatch.setattr(stage._Trainer, "log", stage.SpectralTrainer.log)
    message = r"out of memory in step 4 \(.*\); checkpoint-2 is kept: set training.gradient_checkpointing=true"
    with pytest.raises(FlextuneError, match=message):
        train(tiny_model, tmp_path)
    assert last_checkpoint(tmp_path / "run" / "checkpoints").name == "checkpoint-2"


def test_a_full_disk_names_the_step_and_keeps_the_last_checkpoint(tiny_model, tmp_path, monkeypatch):
    save = stage._Trainer._save_optimizer_and_scheduler

    def full(self, folder):
        if self.state.global_step == 4:
            raise OSError(28, "No space left on device")
        save(self, folder)

    monkeypatch.setattr(stage._Trainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(FlextuneError, match=r"no room on the disk .* step 4; checkpoint-2 is kept: make room"):
        train(tiny_model, tmp_path)
    monkeypatch.undo()
    _, run = train(tiny_model, tmp_path)
    _, undisturbed = train(tiny_model, tmp_path, name="undisturbed")
    assert sha256(run.adapter / "adapter_model.safetensors") == sha256(
        undisturbed.adapter / "adapter_model.safetensors"
    )


def test_other_errors_are_not_dressed_up(tiny_model, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(stage._Trainer, "training_step", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(tiny_model, tmp_path)


def test_trackers_see_the_metrics(tiny_model, tmp_path):
    pytest.importorskip("tensorboard")
    _, run = train(tiny_model, tmp_path, report_to=["tensorboard"], optimizer="sophia")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = next((run.path / "training" / "tensorboard").rglob("events.out.tfevents*"))
    board = EventAccumulator(str(events))
    board.Reload()
    tags = board.Tags()["scalars"]
    assert {"train/loss", "eval/loss", "train/sophia_unclipped", "train/tokens"} <= set(tags)


@pytest.mark.parametrize("tracker", ["no-such-tracker", "mlflow"])
def test_a_tracker_that_is_not_there_is_named(tiny_model, tmp_path, tracker):
    with pytest.raises(UsageError, match=rf"training.report_to = .*{tracker}"):
        train(tiny_model, tmp_path, report_to=[tracker])


def test_only_whole_checkpoints_count_and_half_ones_can_go(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    for step, whole in ((9, True), (10, True), (11, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / WHOLE).touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert (tmp_path / "checkpoint-11").exists()
    discard_half_written(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]


@pytest.mark.parametrize(("best", "kept"), [(None, {6, 8}), (2, {2, 8}), (8, {6, 8})])
def test_the_last_checkpoint_and_the_best_are_kept(tmp_path, monkeypatch, best, kept):
    def on_disk(folder):
        assert (folder, (folder / WHOLE).exists()) == (tmp_path / "checkpoint-8", False)
        synced.append(folder)

    synced = []
    monkeypatch.setattr(measured, "make_durable", on_disk)
    save(tmp_path, best)
    assert synced == [tmp_path / "checkpoint-8"]
    assert {int(path.parent.name.rpartition("-")[2]) for path in tmp_path.glob("*/" + WHOLE)} == kept
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2


def test_a_checkpoint_that_is_half_removed_is_not_gone_on_from(tmp_path, monkeypatch):
    def killed(path, **_):
        assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-8"  # the new one counts already
        (path / "optimizer.pt").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(measured.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, best=6)
    whole = [path for path in tmp_path.glob("checkpoint-*") if (path / WHOLE).exists()]
    assert len(whole) == 3
    assert all((path / "optimizer.pt").exists() for path in whole)


def save(folder, best):
    """What happens after the fourth checkpoint was written."""
    for step in (2, 4, 6, 8):
        (folder / f"checkpoint-{step}").mkdir()
        (folder / f"checkpoint-{step}/optimizer.pt").touch()
        if step < 8:
            (folder / f"checkpoint-{step}" / WHOLE).touch()
    place = best and f"/where/it/lay/before/checkpoint-{best}"
    state = TrainerState(global_step=8, is_world_process_zero=True, best_model_checkpoint=place)
    metrics = Metrics(folder / "metrics.jsonl", done=0, step=lambda: None)
    metrics.on_save(TrainingArguments(output_dir=str(folder)), state, None)


def test_metrics_go_on_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_jsonl(path, [{"step": step, "seconds": float(step)} for step in (1, 2, 3)])
    metrics = Metrics(path, done=2, step=lambda: None)
    assert [row["step"] for row in metrics.rows] == [1, 2]
    assert metrics.seconds == 2
    assert Metrics(path, done=0, step=lambda: None).rows == []


def test_a_loss_that_is_no_number_stops_with_what_to_change(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl", done=0, step=lambda: None)
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate=3.0)
    state = TrainerState(global_step=7)
    with pytest.raises(FlextuneError, match=r"loss is nan at step 7: lower training\.learning_rate \(now 3\)"):
        metrics.on_log(arguments, state, None, logs={"loss": math.nan, "epoch": 1.0})


RECIPE = """
model: {model}
dtype: float32
training: {{dataset: basics, limit: 24, validation: 6, epochs: 2, learning_rate: 1e-2, checkpoint_steps: 3, {more}}}
adapter: {{rank: 2, dropout: {dropout}}}
evaluation: {{benchmarks: []}}
"""


def flextune(*arguments, processes=1):
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *many, "-m", "flextune", "train", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "160", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def finished(*arguments, **options):
    process = flextune(*arguments, **options)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    return err


@pytest.mark.slow
def test_sophia_killed_and_called_again_ends_the_same(tiny_model, tmp_path):
    """Dropout, the labels it draws, the order of the examples, γ: all as if nothing had happened."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model, dropout=0.1, more="optimizer: sophia"))
    train_only(load_recipe(recipe), tmp_path / "whole")
    process = flextune(recipe, "--output", tmp_path / "killed")
    checkpoint = tmp_path / "killed" / "checkpoints" / "checkpoint-3" / WHOLE
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    whole, killed = (RunDirectory(tmp_path / name) for name in ("whole", "killed"))
    assert checkpoint.exists()
    assert not killed.adapter.exists()
    assert "Going on with training after step" in finished(recipe, "--output", tmp_path / "killed")
    assert sha256(killed.adapter / "adapter_model.safetensors") == sha256(whole.adapter / "adapter_model.safetensors")
    for mine, theirs in zip(read_jsonl(killed.metrics), read_jsonl(whole.metrics), strict=True):
        keys = set(mine) - {"seconds", "tokens_per_second", "peak_memory_mb"}
        assert {key: mine[key] for key in keys} == {key: theirs[key] for key in keys}


@pytest.mark.slow
def test_two_processes_train_as_one(tiny_model, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    # the labels that Sophia draws are each process's own; those of the ablation are the data's
    more = "kl: 0.5, optimizer: sophia, sophia: {estimator: empirical_fisher, refresh_share: 1.0}"
    recipe.write_text(RECIPE.format(model=tiny_model, dropout=0.0, more=more))
    even = "training.limit=22"  # sixteen to learn: otherwise the last batch of an epoch is filled up
    train_only(load_recipe(recipe, [even]), tmp_path / "one")
    finished(recipe, even, "training.batch_size=2", "--output", tmp_path / "two", processes=2)
    one, two = (list(read_jsonl(RunDirectory(tmp_path / name).metrics)) for name in ("one", "two"))
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for mine, theirs in zip(one, two, strict=True):
        assert set(mine) == set(theirs)
        for key in {"loss", "kl", "validation_loss", "grad_norm", "tokens", "sophia_gamma"} & set(mine):
            assert theirs[key] == pytest.approx(mine[key], rel=1e-3, abs=1e-6), (key, mine["step"])
    assert two[-1]["sophia_gamma"] > 0
    assert two[-1]["kl"] > 1e-4
    assert (tmp_path / "two" / "adapter" / "adapter_model.safetensors").exists()
