"""What a recipe says about several runs: `study` compares trainings from it, `sweep` searches settings for it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
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
    def trainings(self) -> int:
        """How many trials it has."""
        return sum(len(self.grid(arm)) + len(self.seeds) for arm in self.compare)

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


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Range:
    """Numbers between two."""

    low: float
    """The least."""
    high: float
    """The greatest."""
    log: bool = False
    """Search its logarithm: each power of ten is as likely."""
    whole: bool = False
    """Whole numbers only."""

    @property
    def tries(self) -> list[float]:
        """Its ends, then a number between them if not only whole ones are meant: what a key has to take.

        >>> Range(low=0, high=1).tries, Range(low=2, high=4, whole=True).tries
        ([0.0, 1.0, 0.382], [2, 4])
        """
        if self.whole:
            return [int(self.low), int(self.high)]
        return [self.low, self.high, self.low + 0.382 * (self.high - self.low)]

    @model_validator(mode="after")
    def _possible(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g}, high = {self.high:g}: expected low below high")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low:g}: with log it has to be above 0")
        if self.whole and (self.low != int(self.low) or self.high != int(self.high)):
            raise ValueError(f"low = {self.low:g}, high = {self.high:g}: with whole both have to be whole numbers")
        return self


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Sweep:
    """A search for settings of this recipe, on what is held out and never on what is reported."""

    space: dict[str, Range | list[Any]]
    """Keys of the recipe with what to try: a list of values, or numbers from low to high."""
    only: dict[str, dict[str, list[Any]]] = Field(default_factory=dict)
    """For a key of `space`, the values of other keys of it that it goes with; otherwise it stays as in the recipe."""
    objective: Literal["validation_loss", "pass@1"] = "validation_loss"
    """What is best: the least validation loss, or the highest mean of pass@1 over the benchmarks of the recipe. By the
    loss no benchmark is measured; their problems are left out of training as `training.overlap` says."""
    sampler: Literal["grid", "tpe"] = "grid"
    """grid: all combinations of lists; tpe: a search that learns from its trials (tree-structured Parzen estimator)."""
    trials: Annotated[int, Field(ge=1)] | None = None
    """With tpe: how many."""
    prune: bool = True
    """With tpe: end trials early. By the loss where it is worse than the median of the others at the same step, by
    pass@1 between one benchmark and the next, where the problems of those measured so far are solved less often than by
    the best (Wilcoxon's test, p < 0.1)."""

    @field_validator("space", mode="before")
    @classmethod
    def _lists_or_ranges(cls, space: Any) -> Any:
        """One sentence on a value that is neither, in place of one for each of the two."""
        ends, names = {"low", "high"}, {field.name for field in fields(Range)}
        for key, values in space.items() if isinstance(space, dict) else ():
            if not isinstance(values, list | Range) and not (isinstance(values, dict) and ends <= set(values) <= names):
                raise ValueError(
                    f"space.{key} = {values!r}: expected a list of values, or numbers between two as {{low: 1, high: "
                    "8}, with log: true or whole: true if that is meant"
                )
        return space

    @model_validator(mode="after")
    def _possible(self) -> "Sweep":
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        if not self.space:
            yield "space = {}: expected at least one key with what to try"
        for key, values in self.space.items():
            if key.split(".")[0] in ("study", "sweep"):
                yield f"space: {key} cannot be searched"
            if isinstance(values, list) and (not values or any(value in values[:i] for i, value in enumerate(values))):
                yield f"space.{key} = {values}: expected at least one value, each once"
            if isinstance(values, Range) and self.sampler == "grid":
                yield f"space.{key} is a range: with sampler: grid every key has a list of values"
        if (self.trials is None) == (self.sampler == "tpe"):
            yield f"trials = {self.trials} with sampler: {self.sampler}: expected a number with tpe, none with grid"
        keys = list(self.space)
        for key, conditions in self.only.items():
            for other, values in conditions.items():
                if key not in keys or other not in keys or keys.index(other) >= keys.index(key):
                    yield f"only.{key}.{other}: both have to be keys of space, {other} before {key}"
                    continue
                among = self.space[other]
                if not isinstance(among, list) or any(value not in among for value in values):
                    yield f"only.{key}.{other} = {values}: expected some of {among}"

    def applies(self, key: str, chosen: Mapping[str, Any]) -> bool:
        """Whether a key is searched beside the values that were chosen before it.

        >>> kind = "evaluation.decodings.d.kind"
        >>> sweep = Sweep(space={kind: ["greedy", "beam"], "b": [1, 4]}, only={"b": {kind: ["beam"]}})
        >>> sweep.applies("b", {kind: "greedy"}), sweep.applies("b", {kind: "beam"})
        (False, True)
        """
        return all(other in chosen and chosen[other] in values for other, values in self.only.get(key, {}).items())

    def grid(self) -> list[dict[str, Any]]:
        """All combinations of the lists, each once.

        >>> Sweep(space={"a": [1, 2], "b": [3, 4]}, only={"b": {"a": [2]}}).grid()
        [{'a': 1}, {'a': 2, 'b': 3}, {'a': 2, 'b': 4}]
        """
        found: list[dict[str, Any]] = [{}]
        for key, values in self.space.items():
            each = values if isinstance(values, list) else []
            found = [
                {**chosen, **taken}
                for chosen in found
                for taken in ([{key: value} for value in each] if self.applies(key, chosen) else [{}])
            ]
        return found
