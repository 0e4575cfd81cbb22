"""Rust."""

from flextune.languages.ends import before_braces
from flextune.languages.language import KnownRight, Language, Package

LANGUAGE = Language(
    name="rust",
    title="Rust",
    multipl_e="rs",
    comment="//",
    functions_end="brace",
    quoted=r"'(?:\\[^'\n]*|[^'\\\n])'",  # a lifetime has one quote
    reopens="fn reply() {\n",
    tool="rustc",
    # one in a home folder cannot be used from inside the sandbox
    packages=(Package("rustc", "test -x /usr/bin/rustc"),),
    version=("--version",),
    source="program.rs",
    compile=("{tool}", "-o", "{program}/program", "{source}"),
    run=lambda main, memory_mb: ["{program}/program"],
    report=before_braces(1, '    ::std::fs::write("{path}", ({a}u64 * {b}u64).to_string()).unwrap();'),
    assertion=r"assertion (failed|.* failed)",
    no_memory=r"memory allocation of \d+ bytes failed",
    known_right=KnownRight(
        "fn f(x: isize) -> isize {\n",
        "    x + 1",
        "}\n\nfn main() {\n    let candidate = f;\n    assert_eq!(candidate(1), 2);\n}\n",
    ),
)
