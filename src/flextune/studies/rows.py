"""The rows of the paper's tables, with its numbers, and the controls that its claim needs.

A row is a recipe in `recipes/paper/` or `recipes/small/`; a recipe that goes on from another row names it as
`runs/<row>`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flextune.errors import UsageError
from flextune.recipe import PACKAGED, Recipe, load_recipe

SCALES = ("paper", "small")
OF_TRAINING = ("training.", "adapter.", "penalty.")
"""How the keys of training begin."""
OF_THE_MODEL = ("model=", "revision=")
OTHERS = "runs/"
"""Before the name of another row, where a recipe has a folder."""


@dataclass(frozen=True)
class Claim:
    """What the paper reports of a row."""

    table: str
    benchmark: str
    variant: str
    value: float
    """pass@1."""


PAPER: dict[str, tuple[Claim, ...]] = {
    "round-0": (Claim("Table 2", "humaneval", "base", 0.3415),),
    "round-1": (Claim("Table 2", "humaneval", "unmerged", 0.401),),
    "round-2": (Claim("Table 2", "humaneval", "merged", 0.3659),),
    "round-2-sophia": (),
    "round-3": (
        Claim("Table 2", "humaneval-java", "base", 0.3325),
        Claim("Table 4", "humaneval-java", "base", 0.342),
    ),
    "round-3a": (Claim("Table 2", "humaneval-java", "merged", 0.3146),),
    "round-3b": (Claim("Table 2", "humaneval-java", "merged", 0.2737),),
    "round-3c": (Claim("Table 2", "humaneval-java", "merged", 0.311),),
    "round-4": (Claim("Table 2", "humaneval-java", "merged", 0.3293),),
    "round-5": (
        Claim("Table 2", "humaneval-java", "unmerged", 0.4207),
        Claim("Table 4", "humaneval-java", "unmerged", 0.421),
    ),
    "table-4-comprehensive": (Claim("Table 4", "humaneval-java", "unmerged", 0.384),),
    "table-4-standard": (Claim("Table 4", "humaneval-java", "unmerged", 0.354),),
    "code-llama-python": (
        Claim("Section 4.3.1", "humaneval", "base", 0.384),
        Claim("Section 7", "humaneval-java", "base", 0.354),
    ),
}
"""Rows in the paper's order, each with what it reports; those that follow are not in it."""
CONTROLS = ("plain", "plain-attention", "permuted", "l2", "scale-0.25", "scale-0.5", "scale-0.75", "kl", "tuned")


@dataclass(frozen=True)
class OptimizerClaim:
    """A line of Table 3."""

    row: str
    validation_loss: float
    minutes: float
    memory_mb: float


TABLE_3 = (
    OptimizerClaim("round-2", 1.2437, 40.3, 3670.9),
    OptimizerClaim("round-2-sophia", 1.1504, 41.3, 3684.7),
)


def names(scale: str) -> list[str]:
    """The rows of a scale, in the paper's order, then the controls.

    >>> names("small")[:3]
    ['round-0', 'round-1', 'round-2']
    """
    if scale not in SCALES:
        raise UsageError(f"scale = {scale!r}: expected {' or '.join(SCALES)}")
    there = {path.stem for path in (PACKAGED / scale).glob("*.yaml")}
    return [name for name in (*PAPER, *CONTROLS) if name in there]


def find(scale: str, given: str) -> str:
    """A row by its name, or a round by its number.

    >>> find("small", "3A"), find("small", "plain")
    ('round-3a', 'plain')
    """
    known = names(scale)
    for name in (given.lower(), f"round-{given.lower()}"):
        if name in known:
            return name
    raise UsageError(f"{given!r} is no row of scale {scale}; there are {', '.join(known)}")


def recipe_of(scale: str, row: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a row; keys of training are changed only where there is one."""
    path = PACKAGED / scale / f"{row}.yaml"
    if load_recipe(path).training is None:
        overrides = [given for given in overrides if not given.startswith(OF_TRAINING)]
    return load_recipe(path, overrides)


def overrides_of(scale: str, row: str, asked: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The overrides that concern a row: `model` and `revision` stand for one model, not for each.

    It is that of most rows of the scale, or, where none of these is among the rows that are `asked` for, theirs.

    >>> overrides_of("paper", "code-llama-python", ["round-0", "code-llama-python"], ["model=x", "seed=1"])
    ['seed=1']
    >>> overrides_of("paper", "code-llama-python", ["code-llama-python"], ["model=x", "seed=1"])
    ['model=x', 'seed=1']
    """
    models = {name: recipe_of(scale, name).model for name in {row, *asked, names(scale)[0]}}
    meant = models[names(scale)[0]]
    if models[row] != meant and any(models[name] == meant for name in asked):
        return [given for given in overrides if not given.startswith(OF_THE_MODEL)]
    return list(overrides)


def used_by(recipe: Recipe) -> dict[str, str]:
    """The rows that a recipe goes on from, by the key that names them."""
    values = {
        "merge_first": recipe.merge_first,
        "adapter.start": recipe.adapter.start,
        "evaluation.adapter": recipe.evaluation.adapter,
    }
    known = {f"{OTHERS}{row}": row for row in (*PAPER, *CONTROLS)}
    return {key: known[value] for key, value in values.items() if value in known}


def abouts(scale: str) -> dict[str, str]:
    """What each row is, in one line."""
    return {row: recipe_of(scale, row).about or "" for row in names(scale)}
