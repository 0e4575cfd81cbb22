"""TypeScript, which runs as JavaScript."""

from dataclasses import replace

from flextune.languages import javascript
from flextune.languages.language import KnownRight, Package

FORM = javascript.LANGUAGE.self_test_form
assert FORM is not None

LANGUAGE = replace(
    javascript.LANGUAGE,
    name="typescript",
    title="TypeScript",
    multipl_e="ts",
    mbxp="typescript",
    humaneval_x=None,
    basics=None,
    self_test_form=replace(FORM, head=r"declare var require: any;\n" + javascript.SCRIPT),
    tool="tsc",
    packages=(javascript.NODE, Package("node-typescript", "command -v tsc")),
    needs=("node",),
    source="program.ts",
    compile=("{tool}", "--target", "esnext", "--typeRoots", "{program}", "{source}"),
    run=lambda main, memory_mb: ["node", f"--max-old-space-size={memory_mb}", "{program}/program.js"],
    known_right=KnownRight(
        "function f(x: number): number {\n",
        "    return x + 1;\n}",
        "declare var require: any;\nconst assert = require('node:assert');\n\n\nfunction test() {\n"
        "  let candidate = f;\n  assert.deepEqual(candidate(1),2);\n}\n\ntest();",
    ),
)
