"""Java."""

from pathlib import Path
from typing import Any

from flextune.languages.ends import before_braces
from flextune.languages.language import Form, HumanEvalX, KnownRight, Language, Library, Package
from flextune.languages.rules import Rule, Syntax, quoted

JAVATUPLES = "/usr/share/java/javatuples.jar"
TYPES = {
    "int": "long",
    "bool": "boolean",
    "str": "String",
    "list[int]": "ArrayList<Long>",
    "list[str]": "ArrayList<String>",
}
IMPORTS = "".join(
    f"import java.{package}.*;\n" for package in ("util", "lang.reflect", "security", "math", "io", "util.stream")
)


def _literal(kind: str, value: Any) -> str:
    if kind == "int":
        return f"({value}l)"
    if kind == "bool":
        return f"({str(value).lower()})"
    if kind == "str":
        return f"({quoted(value)})"
    element = "Long" if kind == "list[int]" else "String"
    items = ", ".join(f"(long){item}l" if element == "Long" else f"(String){quoted(item)}" for item in value)
    return f"(new ArrayList<{element}>(Arrays.asList({items})))"


def _prompt(rule: Rule) -> str:
    arguments = ", ".join(f"{TYPES[kind]} {name}" for name, kind in rule.parameters.items())
    comments = "".join(f"    // {line}\n" for line in rule.comment(_literal))
    head = f"    public static {TYPES[rule.returns]} {rule.name}({arguments}) {{\n"
    return f"{IMPORTS}class Problem {{\n{comments}{head}"


def _tests(rule: Rule) -> str:
    primitive = rule.returns in ("int", "bool")
    lines = "".join(
        f"    assert({rule.call(_literal, given)}{f' == {value}' if primitive else f'.equals({value})'});\n"
        for given, expected in rule.cases
        for value in [_literal(rule.returns, expected)]
    )
    return f"    }}\n    public static void main(String[] args) {{\n{lines}    }}\n\n}}\n"


LANGUAGE = Language(
    name="java",
    title="Java",
    mbxp="java",
    humaneval_x=HumanEvalX("java", ("\n    }\n",), "\n    }\n}\n"),
    basics=Syntax(_prompt, _tests, ("\n    }\n",), " " * 8),
    comment="//",
    functions_end="brace",
    ends_in_semicolons=True,
    reopens="    static void reply() {\n",
    self_test_stop=("\n    }", "\n}", "\n```"),
    self_test_form=Form(
        head=r"    \}\n    public static void main\(String\[\] args\) \{\n",
        tail=r"    \}\n\n\}\n",
        indent="    ",
        opening="assert({asked}(",
        body="        // left out here\n",
    ),
    tool="javac",
    packages=(
        Package(
            "default-jdk-headless", "command -v javac && command -v java", "Java cannot be measured", on_demand=False
        ),
        Package(
            "libjavatuples-java",
            f"test -e {JAVATUPLES}",
            "MultiPL-E's Java problems cannot be measured",
            on_demand=False,
        ),
    ),
    version=("-version",),
    source="{main}.java",
    compile=(
        *("{tool}", "-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC", "-proc:none", "-encoding", "UTF-8"),
        *("-cp", JAVATUPLES, "-d", "{program}", "{source}"),
    ),
    compile_server="CompileServer.java",
    release_option="--release",
    run=lambda main, memory_mb: [
        *("{folder}/java", "-ea", f"-Xmx{memory_mb}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
        *("-cp", f"{{program}}:{JAVATUPLES}", main),
    ],
    report=before_braces(
        2,
        'try (java.io.FileWriter report = new java.io.FileWriter("{path}")) {{'
        ' report.write(Long.toString(Long.parseLong("{a}") * Long.parseLong("{b}"))); }}'
        " catch (java.io.IOException e) {{ throw new java.io.UncheckedIOException(e); }}",
    ),
    no_memory=r"\bOutOfMemoryError\b",
    bounded_by=None,
    folders=tuple(str(path) for path in Path("/etc").glob("java-*-openjdk")),
    libraries=(
        Library(
            JAVATUPLES,
            "org.javatuples",
            f"{JAVATUPLES} is missing, which MultiPL-E's Java programs import: apt-get install libjavatuples-java",
        ),
    ),
    known_right=KnownRight(
        "import java.util.*;\nclass Problem {\n    public static long f(long x) {\n",
        "        return x + 1;",
        "    }\n    public static void main(String[] args) {\n    assert(f(1l) == (2l));\n    }\n\n}\n",
    ),
)
