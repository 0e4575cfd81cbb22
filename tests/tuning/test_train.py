import math

import pytest
from transformers import TrainerState, TrainingArguments

from flextune.errors import FlextuneError
from flextune.files import write_jsonl
from flextune.tuning.train import WHOLE, Metrics, last_checkpoint


def test_only_whole_checkpoints_count_and_half_ones_go(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    for step, whole in ((9, True), (10, True), (11, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / WHOLE).touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-11").exists()


def test_metrics_go_on_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_jsonl(path, [{"step": step, "seconds": float(step)} for step in (1, 2, 3)])
    metrics = Metrics(path, done=2, step=lambda: None)
    assert [row["step"] for row in metrics.rows] == [1, 2]
    assert metrics.before == 2
    assert Metrics(path, done=0, step=lambda: None).rows == []


def test_a_loss_that_is_no_number_stops_with_what_to_change(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl", done=0, step=lambda: None)
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate=3.0)
    state = TrainerState(global_step=7)
    with pytest.raises(FlextuneError, match=r"loss is nan at step 7: lower training\.learning_rate \(now 3\)"):
        metrics.on_log(arguments, state, None, logs={"loss": math.nan, "epoch": 1.0})
