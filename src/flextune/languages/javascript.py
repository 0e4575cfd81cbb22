"""JavaScript."""

from typing import Any

from flextune.languages.ends import at_end
from flextune.languages.language import Form, HumanEvalX, KnownRight, Language, Package
from flextune.languages.rules import Rule, Syntax, quoted

NODE = Package("nodejs", "command -v node", "JavaScript cannot be measured", on_demand=False)
SCRIPT = r"const assert = require\('node:assert'\);\n\n\nfunction test\(\) \{\n  let candidate = (?P<asked>\w+);\n"
"""How MultiPL-E's tests begin, in TypeScript too."""
REPORT = ";require('fs').writeFileSync('{path}', String({a} * {b}));"


def _literal(kind: str, value: Any) -> str:
    if kind == "str":
        return quoted(value)
    if kind == "bool":
        return str(value).lower()
    if kind.startswith("list"):
        return f"[{', '.join(_literal(kind[5:-1], item) for item in value)}]"
    return str(value)


def _prompt(rule: Rule) -> str:
    comments = "".join(f"//{line}\n" for line in rule.comment(_literal))
    return f"{comments}function {rule.name}({', '.join(rule.parameters)}){{\n"


def _tests(rule: Rule) -> str:
    lines = "".join(
        f"  assert.deepEqual({rule.call(_literal, given).replace(rule.name, 'candidate', 1)},"
        f"{_literal(rule.returns, expected)});\n"
        for given, expected in rule.cases
    )
    return (
        f"const assert = require('node:assert');\n\n\nfunction test() {{\n  let candidate = {rule.name};\n"
        f"{lines}}}\n\ntest();\n"
    )


LANGUAGE = Language(
    name="javascript",
    title="JavaScript",
    multipl_e="js",
    mbxp="javascript",
    humaneval_x=HumanEvalX(
        "js",
        ("\n}\n",),
        "\n}\n",
        # console.assert only prints; here a failed assertion has to end the program
        before_tests='console.assert = require("node:assert");\n',
    ),
    basics=Syntax(_prompt, _tests, ("\nfunction ", "\n/*", "\n//", "\nconsole.log"), " " * 4, closing="}\n"),
    comment="//",
    functions_end="brace",
    ends_in_semicolons=True,
    script=True,
    self_test_stop=("\n}", "\n```"),
    self_test_form=Form(
        head=SCRIPT,
        tail=r"\}\n\ntest\(\);\n?",
        indent="  ",
        opening="assert.deepEqual(candidate(",
        body="    // left out here\n}\n\n",
        ends_by_line=True,
    ),
    tool="node",
    packages=(NODE,),
    version=("--version",),
    source="program.js",
    compile=("{tool}", "--check", "{source}"),
    run=lambda main, memory_mb: ["{tool}", f"--max-old-space-size={memory_mb}", "{source}"],
    report=at_end(REPORT),
    no_memory=r"heap out of memory",
    bounded_by=None,
    known_right=KnownRight(
        "function f(x){\n",
        "    return x + 1;\n}",
        "const assert = require('node:assert');\nassert.deepEqual(f(1), 2);\n",
    ),
)
