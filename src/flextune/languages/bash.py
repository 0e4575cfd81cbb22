"""Bash."""

import re

from flextune.errors import FlextuneError
from flextune.languages.language import End, KnownRight, Language, Package


def _report(tests: str, end: End) -> str:
    """Report as the end of one chain of all tests, so that nothing hangs on `set -e`, a word that can be redefined."""
    parts = re.fullmatch(r"(.*\nrun_test\(\) \{\n)(.*)(\n\}\s+run_test\s*)", tests, re.DOTALL)
    if parts is None:
        raise FlextuneError(f"the tests do not end with run_test: {tests[-80:]!r}")
    head, asserts, call = parts.groups()
    chain = re.sub(r" \]\]$(?=\n    \[\[ |\Z)", " ]] &&", asserts, flags=re.MULTILINE)
    return f"{head}{chain}\n    echo $(({end.a} * {end.b})) > {end.path}{call}\n"


LANGUAGE = Language(
    name="bash",
    title="Bash",
    multipl_e="sh",
    comment="#",
    tool="bash",
    packages=(
        Package("bash", "command -v bash"),
        Package("bc", "command -v bc", "Bash programs that calculate with it fail"),
    ),
    version=("--version",),
    source="program.sh",
    compile=("{tool}", "-n", "{source}"),
    run=lambda main, memory_mb: ["{tool}", "{source}"],
    report=_report,
    assertion=r"\A\s*\Z",
    no_memory=r"cannot allocate|Cannot allocate memory",
    known_right=KnownRight(
        "#!/bin/bash\nf() {\n",
        "    echo $(($1 + 1))",
        '}\n\ncandidate() {\n    f "$@"\n}\n\nset -e\nrun_test() {\n    [[ $(candidate "1") = "2" ]]\n}\n\nrun_test',
    ),
)
