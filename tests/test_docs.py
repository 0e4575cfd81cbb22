"""What the pages of docs/ show is run, what they name exists, and the site has all of them."""

import ast
import importlib.util
import inspect
import re
import tomllib

import pytest
import yaml
from documents import BESIDE, PAGES, ROOT, anchors, blocks, commands, links, read, targets

import flextune
from flextune import Recipe, Training, cli, load_recipe, load_training_set
from flextune.execution import LANGUAGES
from flextune.recipe import describe_keys, overridden, parse_recipe

NEW = [page for page in PAGES if page.count("/") > 1 or page in ("docs/index.md", "docs/tutorial.md")]
"""The pages whose Python is run here; test_readme.py runs that of the others."""
ELSEWHERE = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("benchmarks/results/*.md"))


@pytest.fixture
def run(tiny_model, tmp_path, monkeypatch, capsys):
    """Run the Python of a page, with a tiny model for Code Llama; returns its names and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(page, **names):
        for code in blocks(page, "python"):
            exec(code.replace('"codellama/CodeLlama-7b-hf"', repr(str(tiny_model))), names)
        return names, capsys.readouterr().out

    return run


def of_tutorial(run):
    run("docs/tutorial.md")
    assert [example.completion for example in load_training_set("mine.jsonl").examples][1] == "    return n % 2 == 0\n"


def of_benchmark(run):
    _, printed = run("docs/how-to/benchmark.md")
    assert [line.split()[1] == "passed" for line in printed.splitlines()] == [True, False, True, False]


def of_language(run):
    try:
        _, printed = run("docs/how-to/language.md")
    finally:
        LANGUAGES.pop("perl", None)
    assert printed.split() == ["passed", "wrong_answer", "early_exit"]


def of_penalty(run):
    import torch

    batch = {key: torch.tensor([[1, 2, 3]]) for key in ("input_ids", "labels")}
    names, printed = run("docs/how-to/penalty.md", steps=[[batch, batch]])
    by_trainer, by_loop = printed.splitlines()[-2:]
    assert len(ast.literal_eval(by_trainer)) == 2
    assert "lora_A_norm" in by_loop
    assert names["penalty"].value() > 0


def of_reference(run):
    names, _ = run("docs/reference/python.md")
    assert names["flextune"] is flextune


CHECKS = {
    "docs/tutorial.md": of_tutorial,
    "docs/how-to/benchmark.md": of_benchmark,
    "docs/how-to/language.md": of_language,
    "docs/how-to/penalty.md": of_penalty,
    "docs/reference/python.md": of_reference,
}


@pytest.mark.parametrize("page", [page for page in NEW if blocks(page, "python")])
def test_the_python_runs(page, run):
    CHECKS[page](run)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")])
def test_the_recipes_are_recipes(page):
    for number, text in enumerate(blocks(page, "yaml"), start=1):
        parse_recipe(yaml.safe_load(text), f"{page}, recipe {number}")


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))])
def test_the_commands_are_there(page):
    for command in commands(page):
        words = [re.sub(r"\$\w+", "0", word) for word in command[1:]]
        function, bound, *_ = cli.app.parse_args(words, exit_on_error=False, print_error=False)
        assert function.__name__.strip("_") in words[:2]
        recipe, overrides = bound.arguments.get("recipe", ""), bound.arguments.get("overrides", ())
        if recipe.startswith("recipes/"):
            load_recipe(recipe, overrides)
        elif overrides:
            overridden(Recipe(model="m", training=Training()), overrides, " ".join(words))


@pytest.mark.parametrize("page", PAGES)
def test_what_make_is_asked_for_is_there(page):
    makefile = read("Makefile")
    assert all(f"\n{target}:" in makefile for target in targets(page))


@pytest.mark.parametrize("page", [*PAGES, *BESIDE, *ELSEWHERE])
def test_the_links_lead_somewhere(page):
    for path, anchor in links(page):
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {path}"
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT).as_posix()), f"{page}: {path}#{anchor}"


def messages(page):
    """The messages in the tables of what goes wrong."""
    for table in re.findall(r"^\| message \|.*\n\|-.*\n((?:\|.*\n)+)", read(page), flags=re.MULTILINE):
        for row in table.splitlines():
            yield from re.findall(r"`([^`]+)`", row.split("|")[1])


def sentences():
    """The fixed parts of all texts in the source, of fifteen characters at least."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) >= 15:
                yield node.value


@pytest.mark.parametrize("page", [page for page in PAGES if list(messages(page))])
def test_the_messages_are_those_of_the_source(page):
    known = list(sentences())
    for message in messages(page):
        parts = [part.strip() for part in message.split("…") if part.strip(" :;(),.")]
        found = [any(part in text or text.strip() in part for text in known) for part in parts]
        assert any(found), f"{page}: {message}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages as `make docs` gathers them."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "scripts/pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    folder = tmp_path_factory.mktemp("site")
    pages.gather(folder)
    return folder


def navigation(entries):
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else navigation(value)


def test_every_page_is_in_the_navigation_once(site):
    listed = list(navigation(tomllib.loads(read("zensical.toml"))["project"]["nav"]))
    assert sorted(listed) == sorted(path.relative_to(site).as_posix() for path in site.rglob("*.md"))


def test_links_hold_on_the_site(site):
    for page in site.rglob("*.md"):
        for path, _ in links(page):
            assert (page.parent / path).exists(), f"{page.relative_to(site)}: {path}"


def test_the_reference_has_every_key_and_every_verb(site):
    recipe = (site / "reference/recipe.md").read_text()
    for key, kind, *_ in describe_keys():
        assert (f"\n## {key}\n" if kind == "section" else f"\n| `{key.rpartition('.')[2]}` |") in recipe
    command_line = (site / "reference/command-line.md").read_text()
    for function in cli.VERBS:
        _, _, section = command_line.partition(f"\n## flextune {function.__name__}\n")
        options = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert section
        assert all(f"--{name.replace('_', '-')}" in section.partition("\n## ")[0] for name in options)
    for name in ("list", "show", "overlap"):
        assert f"\n### flextune data {name}\n" in command_line


def test_the_reference_has_every_public_name():
    named = re.findall(r"^::: flextune\.(\w+)$", read("docs/reference/python.md"), flags=re.MULTILINE)
    assert sorted(named) == sorted(flextune.__all__)
