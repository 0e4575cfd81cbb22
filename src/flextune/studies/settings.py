"""What a recipe says about a study: `study`, several trainings from one recipe that are compared."""

import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from flextune.section import SECTION

Seed = Annotated[int, Field(ge=0, lt=2**32)]

OF_THE_STUDY = ("seed", "study")
"""Keys that a study sets itself."""
MEASURED_ON = ("model", "revision", "data", "training.validation", "training.overlap", "training.max_length")
"""Keys that say which tokens the validation loss is a mean over; it compares only where they are the same."""
HELD_OUT_OF = ("training.dataset", "training.template", "training.limit", "training.solutions")
"""The same, where `training.validation` is a number of examples held out of the training set."""


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Study:
    """Several trainings from this recipe, compared by their validation loss."""

    compare: dict[str, dict[str, Any]]
    """Arms by a name of your choice, each with the keys it sets: `sophia: {training.optimizer: sophia}`. The first is
    the reference."""
    tune: dict[str, dict[str, list[Any]]] = Field(default_factory=dict)
    """For an arm, keys with the values to try, all combinations; the lowest final validation loss is chosen. Each arm
    has values of its own, since what suits one need not suit another; one without any is run as it is."""
    seeds: list[Seed]
    """The seeds of the trainings that are reported, the same for each arm."""
    tune_seed: Seed = 100
    """The seed of the trainings that `tune` chooses by; none of `seeds`, so that what is reported did not choose."""

    @property
    def reference(self) -> str:
        """The arm that the others are compared with."""
        return next(iter(self.compare))

    def grid(self, arm: str) -> list[dict[str, Any]]:
        """What is to be tried for an arm: each combination of values by key, in order; none if it is not tuned.

        >>> study = Study(compare={"a": {}, "b": {}}, tune={"b": {"training.warmup": [0, 0.1]}}, seeds=[0])
        >>> study.grid("a"), study.grid("b")
        ([], [{'training.warmup': 0}, {'training.warmup': 0.1}])
        """
        keys = self.tune.get(arm, {})
        return [dict(zip(keys, values, strict=True)) for values in product(*keys.values())] if keys else []

    @model_validator(mode="after")
    def _possible(self) -> "Study":
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        arms = ", ".join(self.compare)
        if len(self.compare) < 2:
            yield f"compare = {self.compare}: expected at least two arms, the reference first"
        for arm in self.compare:
            if not re.fullmatch(r"\w[\w.-]*", arm):
                yield f"compare: {arm!r} has to be a folder's name (letters, digits, - . _)"
        for arm, keys in self.tune.items():
            if arm not in self.compare:
                yield f"tune: {arm!r} is not an arm; study.compare has {arms}"
            for key, values in keys.items():
                if not values:
                    yield f"tune.{arm}: {key} has no values; give at least one, or leave it out"
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            yield f"seeds = {self.seeds}: expected at least one, each once"
        if self.tune and self.tune_seed in self.seeds:
            yield f"tune_seed = {self.tune_seed}: is one of seeds = {self.seeds}, so that what is reported would choose"


def refusal(keys: Sequence[str], sections: Sequence[str], held_out: bool) -> str | None:
    """Why an arm may not set one of `keys`, or None if it may set all of them.

    Args:
        keys: Dotted keys of a recipe.
        sections: The keys that stand for a whole section.
        held_out: Whether `training.validation` is a number of examples held out of the training set.
    """
    for key in keys:
        if key.split(".")[0] in OF_THE_STUDY:
            return f"{key} cannot be set here: study.seeds says the seeds, and a study has no studies"
        if key in sections:
            return f"{key} is a section: set its keys, such as {key}.{'learning_rate' if key == 'training' else '…'}"
        if key in MEASURED_ON or (held_out and key in HELD_OUT_OF):
            return (
                f"{key} cannot be set here: it changes what the validation loss is measured on, and then losses do not "
                "compare; set it for the whole recipe"
            )
    return None
