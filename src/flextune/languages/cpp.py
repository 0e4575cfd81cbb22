"""C++."""

from typing import Any

from flextune.languages.ends import before_braces
from flextune.languages.language import Form, HumanEvalX, KnownRight, Language, Package, Warm
from flextune.languages.rules import Rule, Syntax, quoted

TYPES = {
    "int": "long",
    "bool": "bool",
    "str": "std::string",
    "list[int]": "std::vector<long>",
    "list[str]": "std::vector<std::string>",
}


def _literal(kind: str, value: Any) -> str:
    if kind == "str":
        return f"({quoted(value)})"
    if kind == "bool":
        return f"({str(value).lower()})"
    if kind == "int":
        return f"({value})"
    items = ", ".join(f"(long){item}" if kind == "list[int]" else f"(std::string){quoted(item)}" for item in value)
    return f"({TYPES[kind]}({{{items}}}))"


def _prompt(rule: Rule) -> str:
    arguments = ", ".join(f"{TYPES[kind]} {name}" for name, kind in rule.parameters.items())
    comments = "".join(f"// {line}\n" for line in rule.comment(_literal))
    head = f"{TYPES[rule.returns]} {rule.name}({arguments}) {{\n"
    return f"#include<assert.h>\n#include<bits/stdc++.h>\n{comments}{head}"


def _tests(rule: Rule) -> str:
    lines = "".join(
        f"    assert({rule.call(_literal, given).replace(rule.name, 'candidate', 1)} =="
        f" {_literal(rule.returns, expected)});\n"
        for given, expected in rule.cases
    )
    return f"}}\nint main() {{\n    auto candidate = {rule.name};\n{lines}}}\n"


LANGUAGE = Language(
    name="cpp",
    title="C++",
    mbxp="cpp",
    humaneval_x=HumanEvalX("cpp", ("\n}\n",), "\n}\n"),
    basics=Syntax(_prompt, _tests, ("\n}",), " " * 4),
    comment="//",
    functions_end="brace",
    ends_in_semicolons=True,
    overloads_by_order=True,
    self_test_stop=("\n}", "\n```"),
    self_test_form=Form(
        head=r"\}\nint main\(\) \{\n    auto candidate = (?P<asked>\w+);\n",
        tail=r"\}\n",
        indent="    ",
        opening="assert(candidate(",
        body="    // left out here\n",
        assertion_is_macro=True,
    ),
    tool="g++",
    packages=(Package("g++", "command -v g++", "C++ cannot be measured", on_demand=False),),
    version=("--version",),
    source="program.cpp",
    compile=("{tool}", "-std=c++17", "-o", "{program}/program", "{source}"),
    run=lambda main, memory_mb: ["{program}/program"],
    report=before_braces(
        1,
        '{{ FILE *report = ::fopen("{path}", "w"); ::fprintf(report, "%lld", {a}LL * {b}LL); ::fclose(report); }}',
    ),
    assertion=r"Assertion .* failed",
    no_memory=r"std::bad_alloc",
    prepare=lambda prompt: f"#include <cstdio>\n{prompt}",
    # g++ spends most of its time reading this header
    warm=Warm(
        file="first.h",
        text="#include <bits/stdc++.h>\n",
        command=("{tool}", "-std=c++17", "-x", "c++-header", "{warm}/first.h"),
        pattern=r"^[ \t]*#[ \t]*include[ \t]*<bits/stdc\+\+\.h>",
        options=("-include", "{warm}/first.h"),
    ),
    known_right=KnownRight(
        "#include<assert.h>\n#include<bits/stdc++.h>\nlong f(long x) {\n",
        "    return x + 1;",
        "}\nint main() {\n    assert(f(1) == 2);\n}\n",
    ),
)
