"""A small search, and the process that does it."""

import json
import os
import subprocess
import sys

from flextune.recipe import dump_recipe, parse_recipe

SWEEP = {"space": {"training.learning_rate": [0.001, 0.01], "adapter.rank": [2, 3, 4]}}


def recipe(model="m", sweep=SWEEP, **keys):
    content = {
        "model": str(model),
        "dtype": "float32",
        "training": {"dataset": "basics", "limit": 12, "validation": 4, "epochs": 1, "checkpoint_steps": 1},
        "adapter": {"rank": 2},
        "evaluation": {"benchmarks": []},
    }
    return parse_recipe({**content, **keys, "sweep": sweep}, "recipe")


def settings(trials):
    return sorted(json.dumps(trial["settings"], sort_keys=True) for trial in trials)


SCRIPT = """
import sys
from flextune.recipe import load_recipe
from flextune.studies.sweep import run_sweep
if __name__ == "__main__":
    run_sweep(load_recipe(sys.argv[1]), sys.argv[2], workers=int(sys.argv[3]), storage=(sys.argv[4:] or [None])[0])
"""


def start(tmp_path, made, output, workers, *storage, **environment):
    (tmp_path / "recipe.yaml").write_text(dump_recipe(made))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "script.py", tmp_path / "recipe.yaml", output, str(workers), *storage]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)
