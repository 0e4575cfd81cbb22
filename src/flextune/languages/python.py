"""Python."""

import os
import sys
import textwrap
from pathlib import Path
from typing import Any

from flextune.languages.ends import at_end
from flextune.languages.language import HumanEvalX, KnownRight, Language, Package
from flextune.languages.rules import SHOWN, Rule, Syntax


def interpreter() -> str:
    """The interpreter that judges Python: the system's, or else the one that runs flextune."""
    return "/usr/bin/python3" if Path("/usr/bin/python3").exists() else os.path.realpath(sys.executable)


STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n@", "\n```")
"""The next statement at the left margin ends a function of HumanEval (Chen et al., section 2.1; decorators and fences
added)."""
TYPES = {"int": "int", "bool": "bool", "str": "str", "list[int]": "List[int]", "list[str]": "List[str]"}


def _literal(kind: str, value: Any) -> str:
    return repr(value)


def _prompt(rule: Rule) -> str:
    arguments = ", ".join(f"{name}: {TYPES[kind]}" for name, kind in rule.parameters.items())
    cases = rule.cases[:SHOWN]
    shown = "".join(f"    >>> {rule.call(_literal, given)}\n    {expected!r}\n" for given, expected in cases)
    about = "\n".join(textwrap.wrap(rule.about, 100, initial_indent='    """', subsequent_indent="    "))
    imports = "from typing import List\n\n" if "List[" in f"{arguments}{TYPES[rule.returns]}" else ""
    head = f"def {rule.name}({arguments}) -> {TYPES[rule.returns]}:\n"
    return f'{imports}{head}{about}\n{shown}    """\n'


def _tests(rule: Rule) -> str:
    lines = "".join(
        f"    assert candidate({', '.join(map(repr, given))}) == {expected!r}\n" for given, expected in rule.cases
    )
    return f"def check(candidate):\n{lines}\ndef test_check():\n    check({rule.name})\n\ntest_check()\n"


LANGUAGE = Language(
    name="python",
    title="Python",
    multipl_e="py",
    mbxp="python",
    humaneval_x=HumanEvalX("python", STOP),
    basics=Syntax(_prompt, _tests, ("\ndef", "\n#", "\nif", "\nclass"), " " * 4),
    comment="#",
    functions_end="indentation",
    script=True,
    self_test_stop=("\ndef", "\nclass", "\nif", "\nprint", "\n@", '\n"""', "\n```"),
    tool=interpreter(),
    packages=(Package("python3", "command -v python3", on_demand=False),),
    version=("--version",),
    source="program.py",
    compile=("{tool}", "-s", "-c", "compile(open('{source}', 'rb').read(), 'program.py', 'exec')"),
    run=lambda main, memory_mb: ["{tool}", "-s", "{source}"],  # not -I, which leaves the seed of hashes out
    runs_in_room=True,
    environment={"PYTHONHASHSEED": "0"},
    report=at_end("__import__('io').FileIO('{path}', 'w').write(b'%d' % ({a}).__mul__({b}))"),
    no_memory=r"\bMemoryError\b",
    known_right=KnownRight("def f(x):\n", "    return x + 1", "assert f(1) == 2\n"),
)
