"""C#, with mono."""

import re

from flextune.languages.ends import before_braces
from flextune.languages.language import End, KnownRight, Language, Package


def _report(tests: str, end: End) -> str:
    """Report at the end of Main; its `Debug.Assert`, that only prints in mono and goes on, throws instead."""
    tests = re.sub(r"^(\s*)Debug\.Assert\(", r"\1FlextuneAssert(", tests, flags=re.MULTILINE)
    report = before_braces(2, '    System.IO.File.WriteAllText("{path}", ({a}L * {b}L).ToString());')
    check = '    static void FlextuneAssert(bool right) {{ if (!right) throw new Exception("Assertion failed"); }}'
    return before_braces(1, check)(report(tests, end), end)


USING = "".join(
    f"using System{name};\n"
    for name in ("", ".Numerics", ".Diagnostics", ".Collections.Generic", ".Linq", ".Text", ".Security.Cryptography")
)

LANGUAGE = Language(
    name="csharp",
    title="C#",
    multipl_e="cs",
    mbxp="csharp",
    comment="//",
    functions_end="brace",
    ends_in_semicolons=True,
    lost_imports=("import", "package", "<", "using"),
    reopens="    static void reply() {\n",
    tool="mcs",
    packages=(Package("mono-mcs", "command -v mcs"), Package("mono-runtime", "command -v mono")),
    needs=("mono",),
    version=("--version",),
    source="program.cs",
    compile=(*("{tool}", "-d:DEBUG", "-r:System.Numerics.dll", "-out:{program}/program.exe", "{source}"),),
    run=lambda main, memory_mb: ["mono", f"--gc-params=max-heap-size={memory_mb}m", "{program}/program.exe"],
    report=_report,
    assertion=r"System\.Exception: Assertion failed",
    no_memory=r"OutOfMemoryException|[Oo]ut of memory",
    bounded_by=None,
    folders=("/etc/mono",),
    known_right=KnownRight(
        f"{USING}class Problem {{\n    public static long F(long x) {{\n",
        "        return x + 1;",
        "    }\n    public static void Main(string[] args) {\n    Debug.Assert(F((1L)) == (2L));\n    }\n\n}\n",
    ),
)
