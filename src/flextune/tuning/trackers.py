"""The trackers that a recipe names: trackio, TensorBoard, wandb, mlflow."""

from typing import Any

from transformers.integrations import TensorBoardCallback, get_reporting_integration_callbacks

from flextune.errors import UsageError, reason
from flextune.rundir import RunDirectory
from flextune.tuning.settings import Training


def trackers(run: RunDirectory, training: Training) -> list[Any]:
    """The trackers that a recipe names.

    TensorBoard writes beside metrics.jsonl unless its own variable says where; the trainer's folder does not last.
    """
    found = named_trackers(training)
    for tracker in found:
        if isinstance(tracker, TensorBoardCallback) and tracker.logging_dir is None:
            tracker.logging_dir = str(run.metrics.parent / "tensorboard")
    return found


def named_trackers(training: Training) -> list[Any]:
    """The callbacks of `training.report_to`. Raises `UsageError` if one of them is unknown or not installed."""
    try:
        return [kind() for kind in get_reporting_integration_callbacks(training.report_to)]
    except (ImportError, RuntimeError, ValueError) as error:
        raise UsageError(f"training.report_to = {', '.join(training.report_to)}: {reason(error)}") from None
