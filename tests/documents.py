"""What the README and the pages of docs/ show: blocks of code, commands, links."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))
BESIDE = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"]


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, kind):
    """The blocks of code of one kind, such as `python`."""
    return re.findall(rf"^```{kind}\n(.*?)^```", read(page), flags=re.DOTALL | re.MULTILINE)


def commands(page):
    """Every call of flextune in a block of shell or text, as words; torchrun's and accelerate's too."""
    lines = [line for kind in ("", "console", "text") for block in blocks(page, kind) for line in block.splitlines()]
    for line in lines:
        words = line.strip().removeprefix("$ ")
        if words.startswith("flextune ") or " -m flextune " in words:
            yield ["flextune", *shlex.split(words.partition("flextune ")[2], comments=True)]


def targets(page):
    """What `make` is asked for."""
    return re.findall(r"^\$ make (\w+)", read(page), flags=re.MULTILINE)


def links(page):
    """Relative links and images: the path as the page writes it, and the anchor."""
    prose = re.sub(r"^```.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]+))?\)", prose)


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
