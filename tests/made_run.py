"""A run directory made by hand, with completions that try to get into the report."""

from flextune.files import write_json, write_jsonl
from flextune.recipe import Recipe, Training, dump_recipe
from flextune.rundir import RunDirectory
from flextune.scoring.runs import compare_within
from flextune.scoring.score import score

HOSTILE = "</script><script>document.title = 'owned'</script><img src=x onerror=alert(1)>"


def make_run(path, variants=("base", "unmerged"), training=True):
    """A run of two problems whose completions try to get into the page."""
    recipe = Recipe(
        model="m",
        training=Training() if training else None,
        evaluation={"benchmarks": ["basics-python"], "variants": list(variants)},
    )
    run = RunDirectory(path)
    run.begin(dump_recipe(recipe), {"model": {"folder": HOSTILE}}, {"python": "3"})
    ids = ["basics/one", "basics/two"]
    write_jsonl(
        run.problems("basics-python"),
        [{"task_id": i, "language": "python", "prompt": f"def f():\n    '''{HOSTILE}'''\n", "tests": ""} for i in ids],
    )
    for variant in variants:
        measurement = run.measurement("basics-python", variant, "greedy")
        rows = [{"task_id": i, "sample": 0} for i in ids]
        write_jsonl(
            measurement.completions,
            [{**row, "completion": HOSTILE, "finish_reason": "stop", "tokens": 3} for row in rows],
        )
        passed = [variant != "base", False]
        write_jsonl(
            measurement.verdicts,
            [
                {**row, "verdict": "passed" if ok else "runtime_error", "passed": ok, "seconds": 0.1, "detail": HOSTILE}
                for row, ok in zip(rows, passed, strict=True)
            ],
        )
        score(measurement, "basics-python")
    if len(variants) > 1:
        write_json(run.comparison, compare_within(path))
    if training:
        write_jsonl(
            run.metrics,
            [
                {"step": s, "epoch": s, "loss": 1 / s, "fourier_loss": 2.0, "seconds": s, "peak_memory_mb": 9}
                for s in (1, 2, 3)
            ],
        )
    return run
