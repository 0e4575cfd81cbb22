"""Each programming language in one entry: its toolchain, its commands, and how its tests report their end.

The end of the tests is reported from the end of the tests' own code: a statement there writes a random number into a
file that was empty before. A program that ends early, however cleanly, has not written it. What a program could still
forge that studies this harness from inside is said in docs/execution.md.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from flextune.errors import FlextuneError
from flextune.execution.settings import Limits

REPORT = "/scratch/.end"
"""The file of the report, as the program sees it."""


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
    report: Callable[[str, str], str]
    """The tests, and the nonce, to tests that report their end."""
    run: Callable[[str, Limits], list[str]]
    """The command that runs the program, given the name of its main class (Java) or nothing."""
    source: str
    """The name of the source file."""
    compile: tuple[str, ...] | None = None
    """The command that compiles, or only parses, the source file."""
    assertion: str = r"\bAssertionError\b"
    """What a failed assertion prints."""
    no_memory: str = r"(?!)"
    """What running out of memory prints."""
    limits_address_space: bool = True
    """False where the runtime reserves far more address space than it uses."""
    prefix: str = ""
    """What stands before every program."""
    folders: tuple[str, ...] = field(default=())
    """Files and folders outside /usr that the toolchain reads."""

    def main(self, tests: str) -> str:
        """The main class, where the language has one."""
        found = re.search(r"\bpublic\s+class\s+(\w+)", tests)
        return found[1] if found else "Problem"


def _at_end(statement: str) -> Callable[[str, str], str]:
    """Report after the last line of the tests."""
    return lambda tests, nonce: f"{tests.rstrip()}\n{statement.format(path=REPORT, nonce=nonce)}\n"


def _before_braces(count: int, statement: str) -> Callable[[str, str], str]:
    """Report inside the function that the last `count` closing braces end."""

    def insert(tests: str, nonce: str) -> str:
        position = len(tests)
        for _ in range(count):
            position = tests.rfind("}", 0, position)
        if position < 0:
            raise FlextuneError(f"the tests do not end with {count} closing braces: {tests[-80:]!r}")
        return tests[:position] + statement.format(path=REPORT, nonce=nonce) + "\n" + tests[position:]

    return insert


JAVATUPLES = "/usr/share/java/javatuples.jar"

LANGUAGES: dict[str, Language] = {
    language.name: language
    for language in (
        Language(
            name="python",
            tool="/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable,
            install="apt-get install python3",
            version=("--version",),
            source="program.py",
            compile=("{tool}", "-I", "-c", "compile(open('program.py', 'rb').read(), 'program.py', 'exec')"),
            run=lambda main, limits: ["{tool}", "-I", "program.py"],
            report=_at_end("__import__('io').FileIO('{path}', 'w').write(b'{nonce}')"),
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
                *("-cp", JAVATUPLES, "-d", ".", "{source}"),
            ),
            run=lambda main, limits: [
                *("{folder}/java", "-ea", f"-Xmx{limits.memory_mb}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
                *("-cp", f".:{JAVATUPLES}", main),
            ],
            report=_before_braces(
                2,
                'try {{ java.nio.file.Files.writeString(java.nio.file.Path.of("{path}"), "{nonce}"); }}'
                " catch (java.io.IOException e) {{ throw new java.io.UncheckedIOException(e); }}",
            ),
            no_memory=r"\bOutOfMemoryError\b",
            limits_address_space=False,
            folders=tuple(str(path) for path in Path("/etc").glob("java-*-openjdk")),
        ),
        Language(
            name="javascript",
            tool="node",
            install="apt-get install nodejs",
            version=("--version",),
            source="program.js",
            compile=("{tool}", "--check", "program.js"),
            run=lambda main, limits: ["{tool}", f"--max-old-space-size={limits.memory_mb}", "program.js"],
            report=_at_end(";require('fs').writeFileSync('{path}', '{nonce}');"),
            no_memory=r"heap out of memory",
            limits_address_space=False,
        ),
        Language(
            name="cpp",
            tool="g++",
            install="apt-get install g++",
            version=("--version",),
            source="program.cpp",
            compile=("{tool}", "-std=c++17", "-o", "program", "program.cpp"),
            run=lambda main, limits: ["./program"],
            report=_before_braces(
                1,
                '{{ FILE *report = ::fopen("{path}", "w"); ::fputs("{nonce}", report); ::fclose(report); }}',
            ),
            assertion=r"Assertion .* failed",
            no_memory=r"std::bad_alloc",
            prefix="#include <cstdio>\n",
        ),
    )
}
"""The languages that can be judged, by name."""


@cache
def find_tool(name: str) -> Path | None:
    """The toolchain's executable, links resolved; None if it is missing."""
    found = shutil.which(LANGUAGES[name].tool)
    return Path(found).resolve() if found else None


@cache
def tool_version(name: str) -> str | None:
    """The first line that the toolchain prints about itself; None if it is missing."""
    tool = find_tool(name)
    if tool is None:
        return None
    done = subprocess.run(
        [tool, *LANGUAGES[name].version], capture_output=True, text=True, errors="replace", check=False
    )
    return (done.stdout or done.stderr).strip().splitlines()[0]


def check_languages(names: set[str]) -> None:
    """Stop before anything runs if a language is unknown or its toolchain is missing."""
    for name in sorted(names):
        if name not in LANGUAGES:
            raise FlextuneError(f"programs in {name} cannot be judged; there are {', '.join(LANGUAGES)}")
        language = LANGUAGES[name]
        if find_tool(name) is None:
            raise FlextuneError(f"{language.tool} is missing, which judges programs in {name}: {language.install}")


def missing_parts(names: set[str], programs: list[str]) -> str | None:
    """A library that some programs need and that is not there, as a sentence."""
    if "java" in names and not Path(JAVATUPLES).exists() and any("org.javatuples" in text for text in programs):
        return f"{JAVATUPLES} is missing, which MultiPL-E's Java programs import: apt-get install libjavatuples-java"
    return None
