"""The pages of the documentation site: those of docs/, those that stand elsewhere, and what is generated.

    python scripts/pages.py build/pages

Links are written as they hold on GitHub; where a page has another place on the site, they are written anew.
"""

import os.path
import re
import shutil
import sys
from pathlib import Path

from flextune.cli import app
from flextune.languages import LANGUAGES
from flextune.recipe import describe_keys

ROOT = Path(__file__).parent.parent
ELSEWHERE = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/results/*.md", "results/small/PLAN.md")
"""Pages that are not below docs/; on the site they have the place that they have in the repository."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
"""The path of a link or an image."""


def place(path: Path) -> Path:
    """A file of the repository on the site: docs/ is its root."""
    return path.relative_to("docs") if path.is_relative_to("docs") else path


def moved(text: str, page: Path) -> str:
    """A page's text with links that hold where the page stands on the site."""

    def link(found: re.Match[str]) -> str:
        target = place(Path(os.path.normpath(page.parent / found[1])))
        return Path(os.path.relpath(target, place(page).parent)).as_posix()

    return LINK.sub(link, text)


def command_line() -> str:
    """Every verb with its arguments, from the same texts as `--help`."""
    text = app.generate_docs(heading_level=1)
    return text.partition("**Commands**:\n")[2]


def recipe_keys() -> str:
    """Every key of a recipe, in one table for each section."""
    about = {"": "At the top level."}
    rows: dict[str, list[str]] = {}
    for key, kind, default, description in describe_keys():
        section, _, name = key.rpartition(".")
        if kind == "section":
            about[key] = description
        else:
            shown = WORDS.get(default, f"`{DECODING.sub('{}', default)}`")
            rows.setdefault(section, []).append(f"| `{name}` | {shown} | {description} |")
    tables = [
        "\n".join([f"## {section or 'model, data, seed'}", "", about[section], "", *HEAD, *rows[section]])
        for section in about
    ]
    return "\n\n".join(tables)


HEAD = ("| key | default | |", "|---|---|---|")
WORDS = {"None": "", "True": "`true`", "False": "`false`", "required": "required"}
"""Defaults that YAML writes otherwise than Python."""
DECODING = re.compile(r"Decoding\(.*?\)")


def languages() -> str:
    """Every language that can be judged, from its file in src/flextune/languages/."""
    head = ("| language | MultiPL-E | HumanEval-X | MBXP | `basics` | tests of its own | packages |", "|---" * 7 + "|")
    rows = [
        "| "
        + " | ".join(
            (
                f"{language.title} (`{name}`)",
                f"`{language.short}`",
                f"`{language.humaneval_x.name}`" if language.humaneval_x else "",
                f"`{language.mbxp}`" if language.mbxp else "",
                "yes" if language.basics else "",
                "yes" if language.self_test_stop else "",
                ", ".join(f"`{package.name}`" for package in language.packages),
            )
        )
        + " |"
        for name, language in sorted(LANGUAGES.items())
    ]
    return "\n".join([*head, *rows])


GENERATED = {"command line": command_line, "recipe keys": recipe_keys, "languages": languages}
"""What stands in place of `<!-- generated: … -->`."""


def gather(target: Path) -> None:
    """Write all pages, and what they show, below a folder that is made anew."""
    shutil.rmtree(target, ignore_errors=True)
    for file in [*ROOT.glob("docs/**/*.*"), *(file for pattern in ELSEWHERE for file in ROOT.glob(pattern))]:
        name = file.relative_to(ROOT)
        copy = target / place(name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix != ".md":
            shutil.copyfile(file, copy)
            continue
        text = moved(file.read_text(encoding="utf-8"), name)
        for what, write in GENERATED.items():
            marker = f"<!-- generated: {what} -->"
            if marker in text:
                text = text.replace(marker, write())
        copy.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    gather(ROOT / sys.argv[1])
