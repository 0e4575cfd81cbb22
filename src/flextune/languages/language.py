"""What flextune knows of a programming language: one `Language`, in a file of its own.

Everything else derives from it: which benchmarks it has, how a model is asked and how its answer is read, how programs
are compiled, run and bounded, and which packages that takes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from flextune.languages.rules import Syntax


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
class Package:
    """A package of Debian that a language needs."""

    name: str
    check: str
    """A shell command that succeeds if it is there, whoever installed it."""
    without: str = "programs in that language cannot be judged"
    """What is lost without it."""
    on_demand: bool = True
    """Installed by `make toolchains`; otherwise by `make setup`, since the demo needs it."""


@dataclass(frozen=True)
class Library:
    """A file outside of the toolchain that some programs need."""

    path: str
    used_by: str
    """The programs that need it have this text in their prompt."""
    missing: str
    """What to say where it is missing."""


@dataclass(frozen=True)
class HumanEvalX:
    """How HumanEval-X writes a language; the completion is the body of the function without its closing brace."""

    name: str
    stop: tuple[str, ...]
    closing: str = ""
    """What the stop string took from the completion: the end of the function, and in Java of its class."""
    before_tests: str = ""


@dataclass(frozen=True)
class Form:
    """How MultiPL-E writes tests: regular expressions, without the assertions between head and tail."""

    head: str
    tail: str
    indent: str
    opening: str
    """The start of an assertion, up to the arguments of the asked function."""
    body: str
    """What stands in the prompt for the answer, with the brace where the head does not close the function."""
    ends_by_line: bool = False
    """The end of a line ends a statement, with or without a semicolon."""
    assertion_is_macro: bool = False
    """`assert` is a macro, for which commas between braces part arguments."""


@dataclass(frozen=True)
class KnownRight:
    """A program that is known to pass: f(1) = 2, in the shape that MultiPL-E gives it."""

    prompt: str
    completion: str
    tests: str


@dataclass(frozen=True)
class Language:
    """How programs in one language are asked for, read, compiled and run."""

    name: str
    title: str
    """Its name for people."""
    tool: str
    """The executable that has to be there."""
    packages: tuple[Package, ...]
    version: tuple[str, ...]
    """Arguments that make the tool print its version."""
    report: Callable[[str, End], str]
    """The tests, and what to report, to tests that report their end."""
    run: Callable[[str, int], list[str]]
    """The command that runs the program, given the name of its main class (Java) or nothing, and the memory in MB that
    a runtime may use. Words in braces are filled in: {tool}, {folder} (the tool's), {program} (the folder of the
    program), {source} (the file), {warm}."""
    source: str
    """The name of the source file."""
    known_right: KnownRight
    """Judged to see that the toolchain works."""
    comment: str
    """What begins a comment up to the end of the line."""

    # the benchmarks
    multipl_e: str = ""
    """MultiPL-E's short name, where it differs."""
    mbxp: str = ""
    """MBXP's name; empty where MBXP has none."""
    humaneval_x: HumanEvalX | None = None
    basics: Syntax | None = None
    """How it writes the problems of `basics`."""

    # reading what a model wrote
    functions_end: Literal["indentation", "brace", "word", "other"] = "other"
    """How the end of a function is found: by its indentation, its closing brace, or a word such as `end`."""
    ends_in_semicolons: bool = False
    """Statements and blocks end in marks that prose does not have."""
    script: bool = False
    """Statements may stand outside of functions."""
    lost_imports: tuple[str, ...] = ("import", "package", "<")
    """How lines begin that a reply may have above the asked function, and that cannot follow it."""
    reopens: str = ""
    """What the first brace of the tests closes, where helpers follow the asked function."""
    quoted: str = r"'(?:\\.|[^'\\\n])*'"
    """A text or a character in single quotes."""
    comments: str = r"//[^\n]*|/\*.*?(?:\*/|\Z)"
    """Comments, in languages with braces."""
    overloads_by_order: bool = False
    """A function is known only below its definition, so helpers go into a namespace above the tests (C++)."""

    # tests that a model writes itself
    self_test_stop: tuple[str, ...] = ()
    """What ends a list of assertions. A comment does not: models like to write one between two assertions."""
    self_test_form: Form | None = None

    # compiling and running
    compile: tuple[str, ...] | None = None
    """The command that compiles, or only parses, the source file."""
    compile_server: str = ""
    """A program in this language that keeps the compiler running for several programs (execution/javac.py)."""
    release_option: str = ""
    """The compiler's option for `execution.java_release`."""
    runs_in_room: bool = False
    """A room of the sandbox can run it itself, without starting an interpreter."""
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
    libraries: tuple[Library, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that the compiler and the program get."""
    needs: tuple[str, ...] = ()
    """Executables that have to be there next to the tool."""
    warm: Warm | None = None
    """What is worth doing once for all programs."""

    @property
    def install(self) -> str:
        """What to tell someone who does not have it."""
        return f"apt-get install {' '.join(package.name for package in self.packages)}"

    @property
    def short(self) -> str:
        """MultiPL-E's name."""
        return self.multipl_e or self.name

    def main(self, tests: str) -> str:
        """The main class, where the language has one."""
        found = re.search(r"\bpublic\s+class\s+(\w+)", tests)
        return found[1] if found else "Problem"
