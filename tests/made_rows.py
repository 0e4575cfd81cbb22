"""Run directories made by hand, with verdicts on a few problems in several languages."""

from flextune.files import write_json, write_jsonl
from flextune.recipe import Recipe, dump_recipe
from flextune.rundir import RunDirectory
from flextune.scoring.score import score

LANGUAGES = {"humaneval": "python", "humaneval-java": "java", "humaneval-js": "javascript"}


def make_row(root, name, seed, solved, variant="unmerged", of=20, **keys):
    """A run that solved the problems whose numbers are given for each benchmark; returns its folder."""
    run = RunDirectory(root / name / f"seed-{seed}")
    recipe = Recipe(model="m", seed=seed, evaluation={"benchmarks": list(solved)}, **keys)
    run.begin(dump_recipe(recipe), {}, {"python": "3"})
    for benchmark, numbers in solved.items():
        _solve(run, benchmark, variant, numbers, of)
    return run.path


def solve(folder, recipe, benchmark, numbers, of):
    """Measure one benchmark as a run of the recipe would, with its first decoding and last variant."""
    _solve(RunDirectory(folder), benchmark, recipe.variants[-1], numbers, of)


def _solve(run, benchmark, variant, numbers, of):
    ids = [f"{benchmark}/{number}" for number in range(of)]
    language = LANGUAGES.get(benchmark, benchmark.partition("-")[2])
    problems = [
        {"task_id": i, "language": language, "prompt": "p", "tests": "t", "upstream": f"humaneval/{n}"}
        for n, i in enumerate(ids)
    ]
    write_jsonl(run.problems(benchmark), problems)
    measurement = run.measurement(benchmark, variant, "greedy")
    verdicts = [
        {"task_id": i, "sample": 0, "verdict": "passed" if n in numbers else "wrong_answer", "passed": n in numbers}
        for n, i in enumerate(ids)
    ]
    write_jsonl(measurement.verdicts, verdicts)
    write_json(measurement.execution, {"limits": {}, "toolchains": {}})
    score(measurement, benchmark)
