"""The values of what a sweep searches, as Optuna holds them."""

import json
from typing import Any

import optuna

from flextune.recipe import Recipe, setting_of
from flextune.studies.settings import Range, Sweep


def own_values(recipe: Recipe, sweep: Sweep) -> dict[str, Any]:
    """The recipe's own values of what is searched: the first trial, so that the search can only gain.

    A key that the recipe leaves out, or whose value is not among those that are tried, is drawn.
    """
    found: dict[str, Any] = {}
    for key, values in sweep.space.items():
        if not sweep.applies(key, found):
            continue
        try:
            own = setting_of(recipe, key)
        except (KeyError, TypeError):
            continue
        if isinstance(values, list):
            if own in values:
                found[key] = values[values.index(own)]  # as it is written there: 16, where the recipe has 16.0
        elif isinstance(own, int | float) and values.low <= own <= values.high:
            found[key] = own
    return found


def stored(sweep: Sweep, key: str, value: Any) -> Any:
    """Optuna's categories are texts here: a list of modules is none of the types that it knows."""
    return value if isinstance(sweep.space[key], Range) else json.dumps(value)


def suggested(trial: optuna.Trial, sweep: Sweep) -> dict[str, Any]:
    """The values of a trial; the same ones where it is gone on with."""
    found: dict[str, Any] = {}
    for key, values in sweep.space.items():
        if not sweep.applies(key, found):
            continue
        if isinstance(values, list):
            found[key] = json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in values]))
        elif values.whole:
            found[key] = trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
        else:
            found[key] = trial.suggest_float(key, values.low, values.high, log=values.log)
    return found
