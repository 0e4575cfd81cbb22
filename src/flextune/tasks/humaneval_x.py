"""HumanEval-X (Zheng et al. 2023, arXiv 2303.17568): HumanEval written by hand in several languages."""

from pathlib import Path

from flextune.errors import UsageError
from flextune.languages import LANGUAGES
from flextune.tasks.problem import Problem
from flextune.tasks.source import Source, read

FORMS = {language.humaneval_x.name: language for language in LANGUAGES.values() if language.humaneval_x}
"""The languages that flextune takes of it, by HumanEval-X's names."""

REVISION = "62c78627f3072a1454fa0cb0184737cafe5e4198"
KEYS = dict.fromkeys(("task_id", "prompt", "canonical_solution", "test"), str)


def load(short: str, data: Path | None) -> tuple[list[Problem], dict[str, object]]:
    """All problems in one language, by HumanEval-X's name for it, such as `js`.

    The completion is the body of the function without its closing brace, as in MultiPL-E; the tests close it.
    """
    if short not in FORMS:
        raise UsageError(f"humaneval-x-{short}: this language is not known; there are {', '.join(FORMS)}")
    language = FORMS[short]
    form = language.humaneval_x
    assert form is not None
    source = Source(
        file=f"humaneval-x/{short}.jsonl",
        repo="zai-org/humaneval-x",
        revision=REVISION,
        hub_file=f"data/{short}/data/humaneval.jsonl",
    )
    rows = read(source, data, KEYS)
    problems = [
        Problem(
            task_id=row["task_id"],
            language=language.name,
            prompt=row["prompt"],
            tests=form.closing + form.before_tests + row["test"] + "\n",
            stop=form.stop,
            upstream=f"humaneval/{row['task_id'].rpartition('/')[2]}",
            solution=_body(row["canonical_solution"], form.closing),
        )
        for row in rows.rows
    ]
    return problems, rows.provenance


def _body(solution: str, closing: str) -> str:
    """The reference without the braces that the tests put back."""
    for brace in closing.split():
        solution = solution.rstrip().removesuffix(brace)
    return solution.rstrip() + "\n"
