"""Trainings that differ by their seed: means with intervals, paired differences, and who was there first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flextune.errors import FlextuneError
from flextune.files import Row
from flextune.scoring.intervals import t_interval

Trainings = Mapping[int, Sequence[Row]]
"""By seed, the rows of `training/metrics.jsonl`; the last has a validation loss, and one of step 0 may have no more."""


def final_loss(rows: Sequence[Row]) -> float:
    """The validation loss after the last step."""
    return float(rows[-1]["validation_loss"])


NO_OUTCOME: dict[str, Any] = dict.fromkeys(
    ("validation_loss", "best_validation_loss", "perplexity", "steps", "seconds", "peak_memory_mb")
)
"""What a training that failed came to."""


def outcome(rows: Sequence[Row], where: str) -> dict[str, Any]:
    """What one training came to.

    Returns:
        `validation_loss` and `perplexity` after the last step, `best_validation_loss` after any, `steps`, `seconds`
        (of training, without validation) and `peak_memory_mb`.

    Raises:
        FlextuneError: The last row has no validation loss; `where` stands at the front of the message.
    """
    if not rows or "validation_loss" not in rows[-1]:
        raise FlextuneError(f"{where}: the last row has no validation_loss, so that this training cannot be compared")
    last = rows[-1]
    return {
        "validation_loss": final_loss(rows),
        "best_validation_loss": min(row["validation_loss"] for row in rows if row["step"] and "validation_loss" in row),
        "perplexity": last["perplexity"],
        "steps": last["step"],
        "seconds": last["seconds"],
        "peak_memory_mb": max(row["peak_memory_mb"] for row in rows if "peak_memory_mb" in row),
    }


def first_at_most(rows: Sequence[Row], loss: float) -> Row | None:
    """The first row whose validation loss is `loss` or less; None if there is none.

    >>> first_at_most([{"step": 5, "validation_loss": 2.0}, {"step": 6}, {"step": 10, "validation_loss": 1.0}], 1.5)
    {'step': 10, 'validation_loss': 1.0}
    """
    return next((row for row in rows if "validation_loss" in row and row["validation_loss"] <= loss), None)


def compare_arms(arms: Mapping[str, Trainings]) -> list[dict[str, Any]]:
    """Every arm against the first, the reference, seed by seed.

    Args:
        arms: By name; a seed whose training failed is not there. Means are over the seeds of the arm, what is compared
            is over those that the reference has too.

    Returns:
        For each arm: its `seeds`; means over them (`validation_loss`, `steps`, `seconds`, `peak_memory_mb`);
        `difference`, its validation loss minus the reference's of the same seed (None for the reference); `reached`,
        for each seed the step and the seconds at which its validation loss was first no higher than the reference's
        last one of the same seed, both None where it never was; and `steps_to_reference` and `seconds_to_reference`,
        the means over the seeds that got there, whose number is their `n`. Validation loss is known at validated steps
        only, so that reaching is seen up to one interval of validation late.
    """
    reference = next(iter(arms))
    return [_arm(name, trainings, arms[reference], name == reference) for name, trainings in arms.items()]


def _arm(name: str, trainings: Trainings, reference: Trainings, is_reference: bool) -> dict[str, Any]:
    outcomes = [outcome(rows, f"{name}, seed {seed}") for seed, rows in trainings.items()]
    goals = {seed: final_loss(reference[seed]) for seed in trainings if seed in reference}
    found = {seed: first_at_most(trainings[seed], goal) for seed, goal in goals.items()}
    there = [row for row in found.values() if row is not None]
    differences = [final_loss(trainings[seed]) - goal for seed, goal in goals.items()]
    means = {
        key: asdict(t_interval([result[key] for result in outcomes]))
        for key in ("validation_loss", "steps", "seconds", "peak_memory_mb")
    }
    return {
        "arm": name,
        "seeds": list(trainings),
        **means,
        "difference": None if is_reference else asdict(t_interval(differences)),
        "reached": [
            {"seed": seed, "step": row["step"] if row else None, "seconds": row["seconds"] if row else None}
            for seed, row in found.items()
        ],
        "steps_to_reference": asdict(t_interval([row["step"] for row in there])),
        "seconds_to_reference": asdict(t_interval([row["seconds"] for row in there])),
    }
