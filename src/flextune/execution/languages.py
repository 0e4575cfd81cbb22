"""Each programming language in one entry: its toolchain, its commands, and how its tests report their end.

The end of the tests is reported from the end of the tests' own code: a statement there works out a number from two that
stand in the source, and writes it into a pipe. A program that ends early, however cleanly, has not written it. What a
program could still forge that studies this harness from inside is said in docs/execution.md.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flextune.errors import FlextuneError
from flextune.execution.sandbox import python
from flextune.execution.settings import Limits


@dataclass(frozen=True)
class End:
    """What the tests have to report: the product of two numbers below 2²⁶, in decimal, into an open pipe."""

    path: str
    a: int
    b: int


@dataclass(frozen=True)
class Warm:
    """Work that a compiler would do again for each program, done once, in the folder {warm}."""

    file: str
    """A source file that is written there."""
    text: str
    command: tuple[str, ...]
    """What is done with it."""
    pattern: str = ""
    """The programs that it helps have this in a line."""
    options: tuple[str, ...] = ()
    """What the compiler gets for them, after the tool."""


@dataclass(frozen=True)
class Language:
    """How programs in one language are written, compiled and run."""

    name: str
    tool: str
    """The executable that has to be there."""
    install: str
    """What to tell someone who does not have it."""
    version: tuple[str, ...]
    """Arguments that make the tool print its version."""
    report: Callable[[str, End], str]
    """The tests, and what to report, to tests that report their end."""
    run: Callable[[str, Limits], list[str]]
    """The command that runs the program, given the name of its main class (Java) or nothing. Words in braces are
    filled in: {tool}, {folder} (the tool's), {program} (the folder of the program), {source} (the file), {warm}."""
    source: str
    """The name of the source file."""
    compile: tuple[str, ...] | None = None
    """The command that compiles, or only parses, the source file."""
    assertion: str = r"\bAssertionError\b"
    """What a failed assertion prints."""
    no_memory: str = r"(?!)"
    """What running out of memory prints."""
    bounded_by: Literal["AS", "DATA"] | None = "AS"
    """The resource limit on its memory; None where the runtime reserves much more than it uses."""
    prepare: Callable[[str], str] = str
    """The prompt, to a prompt that lets the tests report."""
    folders: tuple[str, ...] = field(default=())
    """Files and folders outside /usr that the toolchain reads."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that the compiler and the program get."""
    needs: tuple[str, ...] = ()
    """Executables that have to be there beside the tool."""
    warm: "Warm | None" = None
    """What is worth doing once for all programs."""

    def main(self, tests: str) -> str:
        """The main class, where the language has one."""
        found = re.search(r"\bpublic\s+class\s+(\w+)", tests)
        return found[1] if found else "Problem"


def _at_end(statement: str) -> Callable[[str, End], str]:
    """Report after the last line of the tests."""
    return lambda tests, end: f"{tests.rstrip()}\n{statement.format(**vars(end))}\n"


LEAVING = re.compile(r"\b(return\b|((std::)?exit|System\.exit)\s*\()[^;{}]*;\s*\Z")
"""A last statement that leaves the tests: the report has to stand before it."""


def _before_braces(count: int, statement: str) -> Callable[[str, End], str]:
    """Report inside the function that the last `count` closing braces end."""

    def insert(tests: str, end: End) -> str:
        position = len(tests)
        for _ in range(count):
            position = tests.rfind("}", 0, position)
        if position < 0:
            raise FlextuneError(f"the tests do not end with {count} closing braces: {tests[-80:]!r}")
        leaving = LEAVING.search(tests, 0, position)
        position = leaving.start() if leaving else position
        return tests[:position] + statement.format(**vars(end)) + "\n" + tests[position:]

    return insert


def _before(end: str, statement: str) -> Callable[[str, End], str]:
    """Report before what the tests end with, a regular expression."""

    def insert(tests: str, to_report: End) -> str:
        found = re.search(rf"(?:{end})\s*\Z", tests)
        if found is None:
            raise FlextuneError(f"the tests do not end with {end}: {tests[-80:]!r}")
        return tests[: found.start()] + statement.format(**vars(to_report)) + "\n" + tests[found.start() :]

    return insert


def _bash(tests: str, end: End) -> str:
    """Report as the end of one chain of all tests, so that nothing hangs on `set -e`, a word that can be redefined."""
    parts = re.fullmatch(r"(.*\nrun_test\(\) \{\n)(.*)(\n\}\s+run_test\s*)", tests, re.DOTALL)
    if parts is None:
        raise FlextuneError(f"the tests do not end with run_test: {tests[-80:]!r}")
    head, asserts, call = parts.groups()
    chain = re.sub(r" \]\]$(?=\n    \[\[ |\Z)", " ]] &&", asserts, flags=re.MULTILINE)
    return f"{head}{chain}\n    echo $(({end.a} * {end.b})) > {end.path}{call}\n"


def _csharp(tests: str, end: End) -> str:
    """Report at the end of Main; its `Debug.Assert`, that only prints in mono and goes on, throws instead."""
    tests = re.sub(r"^(\s*)Debug\.Assert\(", r"\1FlextuneAssert(", tests, flags=re.MULTILINE)
    report = _before_braces(2, '    System.IO.File.WriteAllText("{path}", ({a}L * {b}L).ToString());')
    check = '    static void FlextuneAssert(bool right) {{ if (!right) throw new Exception("Assertion failed"); }}'
    return _before_braces(1, check)(report(tests, end), end)


JAVATUPLES = "/usr/share/java/javatuples.jar"

GO_PACKAGES = (
    "bufio bytes container/heap container/list crypto/md5 crypto/sha256 encoding/hex encoding/json errors fmt math"
    " math/big math/bits math/rand os reflect regexp sort strconv strings sync testing time unicode unicode/utf8"
)
GO_IMPORTS = "package warm_test\n" + "".join(f'import _ "{name}"\n' for name in GO_PACKAGES.split())

LANGUAGES: dict[str, Language] = {
    language.name: language
    for language in (
        Language(
            name="python",
            tool=python(),
            install="apt-get install python3",
            version=("--version",),
            source="program.py",
            compile=("{tool}", "-s", "-c", "compile(open('{source}', 'rb').read(), 'program.py', 'exec')"),
            run=lambda main, limits: ["{tool}", "-s", "{source}"],  # not -I, which leaves the seed of hashes out
            environment={"PYTHONHASHSEED": "0"},
            report=_at_end("__import__('io').FileIO('{path}', 'w').write(b'%d' % ({a}).__mul__({b}))"),
            no_memory=r"\bMemoryError\b",
        ),
        Language(
            name="java",
            tool="javac",
            install="apt-get install default-jdk-headless libjavatuples-java",
            version=("-version",),
            source="{main}.java",
            compile=(
                *("{tool}", "-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC", "-proc:none", "-encoding", "UTF-8"),
                *("-cp", JAVATUPLES, "-d", "{program}", "{source}"),
            ),
            run=lambda main, limits: [
                *("{folder}/java", "-ea", f"-Xmx{limits.memory_mb}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
                *("-cp", f"{{program}}:{JAVATUPLES}", main),
            ],
            report=_before_braces(
                2,
                'try (java.io.FileWriter report = new java.io.FileWriter("{path}")) {{'
                ' report.write(Long.toString(Long.parseLong("{a}") * Long.parseLong("{b}"))); }}'
                " catch (java.io.IOException e) {{ throw new java.io.UncheckedIOException(e); }}",
            ),
            no_memory=r"\bOutOfMemoryError\b",
            bounded_by=None,
            folders=tuple(str(path) for path in Path("/etc").glob("java-*-openjdk")),
        ),
        Language(
            name="javascript",
            tool="node",
            install="apt-get install nodejs",
            version=("--version",),
            source="program.js",
            compile=("{tool}", "--check", "{source}"),
            run=lambda main, limits: ["{tool}", f"--max-old-space-size={limits.memory_mb}", "{source}"],
            report=_at_end(";require('fs').writeFileSync('{path}', String({a} * {b}));"),
            no_memory=r"heap out of memory",
            bounded_by=None,
        ),
        Language(
            name="cpp",
            tool="g++",
            install="apt-get install g++",
            version=("--version",),
            source="program.cpp",
            compile=("{tool}", "-std=c++17", "-o", "{program}/program", "{source}"),
            run=lambda main, limits: ["{program}/program"],
            report=_before_braces(
                1,
                '{{ FILE *report = ::fopen("{path}", "w");'
                ' ::fprintf(report, "%lld", {a}LL * {b}LL); ::fclose(report); }}',
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
        ),
        Language(
            name="typescript",
            tool="tsc",
            install="apt-get install nodejs node-typescript",
            needs=("node",),
            version=("--version",),
            source="program.ts",
            compile=("{tool}", "--target", "esnext", "--typeRoots", "{program}", "{source}"),
            run=lambda main, limits: ["node", f"--max-old-space-size={limits.memory_mb}", "{program}/program.js"],
            report=_at_end(";require('fs').writeFileSync('{path}', String({a} * {b}));"),
            no_memory=r"heap out of memory",
            bounded_by=None,
        ),
        Language(
            name="rust",
            tool="rustc",
            install="apt-get install rustc",
            version=("--version",),
            source="program.rs",
            compile=("{tool}", "-o", "{program}/program", "{source}"),
            run=lambda main, limits: ["{program}/program"],
            report=_before_braces(1, '    ::std::fs::write("{path}", ({a}u64 * {b}u64).to_string()).unwrap();'),
            assertion=r"assertion (failed|.* failed)",
            no_memory=r"memory allocation of \d+ bytes failed",
        ),
        Language(
            name="go",
            tool="go",
            install="apt-get install golang-go",
            version=("version",),
            source="program_test.go",
            compile=("{tool}", "test", "-c", "-o", "{program}/program", "{source}"),
            run=lambda main, limits: ["{program}/program"],
            prepare=lambda prompt: re.sub(r"^(package \w+)", r'\1; import flextune "os"', prompt, count=1, flags=re.M),
            report=_before_braces(
                1,
                '    if !t.Failed() {{ flextune.WriteFile("{path}", []byte(fmt.Sprint(int64({a}) * int64({b}))), 0) }}',
            ),
            assertion=r"expected '[\s\S]*', got '",
            no_memory=r"runtime: out of memory|cannot allocate memory",
            bounded_by="DATA",
            environment={"GO111MODULE": "off", "GOFLAGS": "", "GOCACHE": "{warm}/cache", "GOTELEMETRY": "off"},
            warm=Warm(
                file="warm_test.go",
                text=GO_IMPORTS,
                command=("{tool}", "test", "-c", "-o", "{warm}/program", "{warm}/warm_test.go"),
            ),
        ),
        Language(
            name="php",
            tool="php",
            install="apt-get install php-cli",
            version=("--version",),
            source="program.php",
            compile=("{tool}", "-d", "display_errors=stderr", "-d", "log_errors=0", "-l", "{source}"),
            run=lambda main, limits: [
                *("{tool}", "-d", "display_errors=stderr", "-d", "log_errors=0"),
                *("-d", f"memory_limit={limits.memory_mb}M"),
                "{source}",
            ],
            report=_at_end("file_put_contents(str_replace('/dev/fd/', 'php://fd/', '{path}'), {a} * {b});"),
            assertion=r"Uncaught Exception: Test failed!",
            no_memory=r"Allowed memory size of|Out of memory",
            bounded_by=None,
            folders=("/etc/php",),
        ),
        Language(
            name="ruby",
            tool="ruby",
            install="apt-get install ruby ruby-test-unit",
            version=("--version",),
            source="program.rb",
            compile=("{tool}", "-c", "{source}"),
            run=lambda main, limits: ["{tool}", "{source}"],
            report=_before(r"\n  end\nend", "\n    File.write('{path}', ({a} * {b}).to_s)"),
            assertion=r"^Failure: |AssertionFailedError",
            no_memory=r"NoMemoryError|failed to allocate memory",
        ),
        Language(
            name="lua",
            tool="lua5.4",
            install="apt-get install lua5.4 lua-unit",
            version=("-v",),
            source="program.lua",
            compile=("{tool}", "-e", "assert(loadfile('{source}'))"),
            run=lambda main, limits: ["{tool}", "{source}"],
            report=_before(
                r"\nend\n+os\.exit\(lu\.LuaUnit\.run\(\)\)",
                "\n    local report = io.open('{path}', 'w'); report:write({a} * {b}); report:close()",
            ),
            assertion=r"\b\d+ failure",
            no_memory=r"not enough memory|luaunit\.lua:\d+: attempt to index a string value \(local 'err'\)",
        ),
        Language(
            name="bash",
            tool="bash",
            install="apt-get install bash",
            version=("--version",),
            source="program.sh",
            compile=("{tool}", "-n", "{source}"),
            run=lambda main, limits: ["{tool}", "{source}"],
            report=_bash,
            assertion=r"\A\s*\Z",
            no_memory=r"cannot allocate|Cannot allocate memory",
        ),
        Language(
            name="csharp",
            tool="mcs",
            install="apt-get install mono-mcs mono-runtime",
            needs=("mono",),
            version=("--version",),
            source="program.cs",
            compile=(*("{tool}", "-d:DEBUG", "-r:System.Numerics.dll", "-out:{program}/program.exe", "{source}"),),
            run=lambda main, limits: [
                *("mono", f"--gc-params=max-heap-size={limits.memory_mb}m", "{program}/program.exe"),
            ],
            report=_csharp,
            assertion=r"System\.Exception: Assertion failed",
            no_memory=r"OutOfMemoryException|[Oo]ut of memory",
            bounded_by=None,
            folders=("/etc/mono",),
        ),
    )
}
"""The languages that can be judged, by name."""
