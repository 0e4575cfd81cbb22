"""FLeX: fine-tune a code model on one programming language, and know what that did to the others.

    from flextune import Recipe, Training, run
    run(Recipe(model="smollm2-135m", training=Training(dataset="basics")), "runs/first")

Importing flextune imports neither torch nor transformers; each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flextune.errors import FlextuneError, UsageError
    from flextune.execution import Program, Verdict, execute
    from flextune.execution.settings import Execution
    from flextune.generation.settings import Decoding, Generation
    from flextune.pipeline import evaluate, quickstart, run
    from flextune.publish import push
    from flextune.recipe import Evaluation, Recipe, load_recipe
    from flextune.report.run import write_report
    from flextune.scoring.compare import compare
    from flextune.scoring.score import score
    from flextune.studies.autotune import autotune
    from flextune.studies.compare import run_study
    from flextune.studies.reproduce import reproduce
    from flextune.studies.settings import Study, Sweep
    from flextune.studies.sweep import run_sweep
    from flextune.tasks import Example, Problem, load_benchmark, load_training_set
    from flextune.tuning.curvature import SophiaCallback, refresh_curvature, refresh_is_due
    from flextune.tuning.fourier import FourierPenalty
    from flextune.tuning.merging import merge
    from flextune.tuning.settings import Adapter, Penalty, Sophia, Training
    from flextune.tuning.sophia import SophiaG
    from flextune.tuning.trainer import SpectralTrainerMixin, attach

_HOMES = {
    "flextune.errors": ("FlextuneError", "UsageError"),
    "flextune.execution": ("Program", "Verdict", "execute"),
    "flextune.pipeline": ("evaluate", "quickstart", "run"),
    "flextune.execution.settings": ("Execution",),
    "flextune.publish": ("push",),
    "flextune.generation.settings": ("Decoding", "Generation"),
    "flextune.recipe": ("Evaluation", "Recipe", "load_recipe"),
    "flextune.report.run": ("write_report",),
    "flextune.scoring.compare": ("compare",),
    "flextune.scoring.score": ("score",),
    "flextune.studies.autotune": ("autotune",),
    "flextune.studies.compare": ("run_study",),
    "flextune.studies.reproduce": ("reproduce",),
    "flextune.studies.settings": ("Study", "Sweep"),
    "flextune.studies.sweep": ("run_sweep",),
    "flextune.tasks": ("Example", "Problem", "load_benchmark", "load_training_set"),
    "flextune.tuning.curvature": ("SophiaCallback", "refresh_curvature", "refresh_is_due"),
    "flextune.tuning.fourier": ("FourierPenalty",),
    "flextune.tuning.merging": ("merge",),
    "flextune.tuning.settings": ("Adapter", "Penalty", "Sophia", "Training"),
    "flextune.tuning.sophia": ("SophiaG",),
    "flextune.tuning.trainer": ("SpectralTrainerMixin", "attach"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Adapter",
    "Decoding",
    "Evaluation",
    "Example",
    "Execution",
    "FlextuneError",
    "FourierPenalty",
    "Generation",
    "Penalty",
    "Problem",
    "Program",
    "Recipe",
    "Sophia",
    "SophiaCallback",
    "SophiaG",
    "SpectralTrainerMixin",
    "Study",
    "Sweep",
    "Training",
    "UsageError",
    "Verdict",
    "attach",
    "autotune",
    "compare",
    "evaluate",
    "execute",
    "load_benchmark",
    "load_recipe",
    "load_training_set",
    "merge",
    "push",
    "quickstart",
    "refresh_curvature",
    "refresh_is_due",
    "reproduce",
    "run",
    "run_study",
    "run_sweep",
    "score",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'flextune' has no attribute {name!r}")
