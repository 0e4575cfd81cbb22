"""HumanEval-X (Zheng et al. 2023, arXiv 2303.17568): HumanEval written by hand in several languages."""

from pathlib import Path

from flextune.errors import UsageError
from flextune.tasks.humaneval import STOP
from flextune.tasks.problem import Problem
from flextune.tasks.source import Source, read

LANGUAGES = {"python": "python", "java": "java", "js": "javascript", "cpp": "cpp"}
STOPS = {"python": STOP, "java": ("\n    }\n",), "javascript": ("\n}\n",), "cpp": ("\n}\n",)}
CLOSING = {"python": "", "java": "\n    }\n}\n", "javascript": "\n}\n", "cpp": "\n}\n"}
"""What the stop string took from the completion: the end of the function, and in Java of its class."""

REVISION = "62c78627f3072a1454fa0cb0184737cafe5e4198"
KEYS = dict.fromkeys(("task_id", "prompt", "canonical_solution", "test"), str)


def load(short: str, data: Path | None) -> tuple[list[Problem], dict[str, object]]:
    """All problems in one language: `python`, `java`, `js` or `cpp`.

    The completion is the body of the function without its closing brace, as in MultiPL-E; the tests close it.
    """
    if short not in LANGUAGES:
        raise UsageError(f"humaneval-x-{short}: this language is not known; there are {', '.join(LANGUAGES)}")
    language = LANGUAGES[short]
    source = Source(
        file=f"humaneval-x/{short}.jsonl",
        repo="zai-org/humaneval-x",
        revision=REVISION,
        hub_file=f"data/{short}/data/humaneval.jsonl",
    )
    rows = read(source, data, KEYS)
    # console.assert only prints; here a failed assertion has to end the program
    asserting = 'console.assert = require("node:assert");\n' if language == "javascript" else ""
    problems = [
        Problem(
            task_id=row["task_id"],
            language=language,
            prompt=row["prompt"],
            tests=CLOSING[language] + asserting + row["test"] + "\n",
            stop=STOPS[language],
            upstream=f"humaneval/{row['task_id'].rpartition('/')[2]}",
            solution=_body(row["canonical_solution"], language),
        )
        for row in rows.rows
    ]
    return problems, rows.provenance


def _body(solution: str, language: str) -> str:
    """The reference without the braces that the tests put back."""
    for brace in CLOSING[language].split():
        solution = solution.rstrip().removesuffix(brace)
    return solution.rstrip() + "\n"
