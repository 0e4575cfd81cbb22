"""A recipe with a study, and trainings made by hand."""

from flextune import Recipe, Training
from flextune.files import write_jsonl
from flextune.recipe import dump_recipe
from flextune.rundir import RunDirectory

STUDY = {
    "compare": {"plain": {}, "decayed": {"training.weight_decay": 0.1}},
    "tune": {"decayed": {"training.learning_rate": ["1e-3", 0.002]}},
    "seeds": [0, 1],
    "tune_seed": 7,
}


def study_recipe(**study):
    return Recipe(model="m", training=Training(validation=4), evaluation={"benchmarks": []}, study={**STUDY, **study})


def metrics(*losses, seconds=1.0, memory=100):
    """Steps of `seconds` each, with the losses at every fifth, and 0.5 more than the first before them all."""
    start = {"step": 0, "seconds": 0.0, "validation_loss": losses[0] + 0.5, "perplexity": 9.0}
    rows = [
        {"step": step, "loss": 9.0, "seconds": step * seconds, "peak_memory_mb": memory + step}
        for step in range(1, 5 * len(losses) + 1)
    ]
    for number, loss in enumerate(losses):
        rows[5 * number + 4] |= {"validation_loss": loss, "perplexity": 2.0**loss}
    return [start, *rows]


class Trainings:
    """Stands in for `pipeline.run`: writes a run without training it, and counts."""

    def __init__(self):
        self.trained = []

    def __call__(self, recipe, output):
        run = RunDirectory(output)
        run.begin(dump_recipe(recipe), {}, {})
        if not run.adapter.exists():
            self.trained.append(run.path)
            decay, rate, seed = recipe.training.weight_decay, recipe.training.learning_rate, recipe.seed
            last = 1.0 + seed / 10 - (0.2 if decay else 0) + abs(rate - 0.002) * 100
            write_jsonl(run.metrics, metrics(3.0, last + 0.1, last, seconds=2.0 if decay else 1.0))
            run.adapter.mkdir()
        return run
