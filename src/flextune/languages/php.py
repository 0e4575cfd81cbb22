"""PHP."""

from flextune.languages.ends import at_end
from flextune.languages.language import KnownRight, Language, Package

ERRORS = ("{tool}", "-d", "display_errors=stderr", "-d", "log_errors=0")

LANGUAGE = Language(
    name="php",
    title="PHP",
    mbxp="php",
    comment="//",
    functions_end="brace",
    ends_in_semicolons=True,
    script=True,
    comments=r"//[^\n]*|/\*.*?(?:\*/|\Z)|#[^\n]*",
    tool="php",
    packages=(Package("php-cli", "command -v php"),),
    version=("--version",),
    source="program.php",
    compile=(*ERRORS, "-l", "{source}"),
    run=lambda main, memory_mb: [*ERRORS, "-d", f"memory_limit={memory_mb}M", "{source}"],
    report=at_end("file_put_contents(str_replace('/dev/fd/', 'php://fd/', '{path}'), {a} * {b});"),
    assertion=r"Uncaught Exception: Test failed!",
    no_memory=r"Allowed memory size of|Out of memory",
    bounded_by=None,
    folders=("/etc/php",),
    known_right=KnownRight(
        "<?php\nfunction f($x) {\n",
        "    return $x + 1;\n}",
        "function candidate(...$args) {\n    return f(...$args);\n}\n\nfunction test(): void {\n"
        '    if (candidate(1) !== 2) { throw new Exception("Test failed!"); }\n}\n\ntest();',
    ),
)
