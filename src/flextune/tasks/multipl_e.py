"""MultiPL-E (Cassano et al. 2022, arXiv 2208.08227): HumanEval and MBPP translated into many languages."""

import re
from pathlib import Path

from flextune.languages import LANGUAGES, by_short_name
from flextune.tasks.problem import Problem
from flextune.tasks.source import Source, read

REVISION = "28441b6024e71d4a1c1c0f6bf171c935cd5a43f2"
KEYS = {"name": str, "language": str, "prompt": str, "tests": str, "stop_tokens": list}


def short_name(language: str) -> str:
    """MultiPL-E's name of a language, given that or ours.

    >>> short_name("rust"), short_name("rs"), short_name("java")
    ('rs', 'rs', 'java')
    """
    return LANGUAGES[language].short if language in LANGUAGES else language


def load(config: str, data: Path | None) -> tuple[list[Problem], dict[str, object]]:
    """All problems of a config by its Hub name: `humaneval-java`, `mbpp-cpp`, …."""
    source = Source(file=f"multipl-e/{config}.jsonl", repo="nuprl/MultiPL-E", revision=REVISION, config=config)
    rows = read(source, data, KEYS)
    short = config.partition("-")[2]
    known = by_short_name(short)
    language = known.name if known else short
    problems = [
        Problem(
            task_id=row["name"],
            language=language,
            prompt=row["prompt"],
            tests=row["tests"],
            stop=tuple(row["stop_tokens"]),
            upstream=upstream(row["name"]),
        )
        for row in rows.rows
    ]
    return problems, rows.provenance


def upstream(name: str) -> str:
    """The problem that a MultiPL-E name was translated from.

    >>> upstream("HumanEval_85_add"), upstream("mbpp_601_max_chain_length")
    ('humaneval/85', 'mbpp/601')
    """
    match = re.match(r"(humaneval|mbpp)_(\d+)_", name, flags=re.IGNORECASE)
    return f"{match[1].lower()}/{match[2]}" if match else ""
