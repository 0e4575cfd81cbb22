"""Ruby."""

from flextune.languages.ends import before
from flextune.languages.language import KnownRight, Language, Package

LANGUAGE = Language(
    name="ruby",
    title="Ruby",
    multipl_e="rb",
    mbxp="ruby",
    comment="#",
    functions_end="word",
    tool="ruby",
    packages=(
        Package("ruby", "command -v ruby"),
        Package("ruby-test-unit", "ruby -e \"require 'test/unit/version'\""),  # test/unit itself fails, having no tests
    ),
    version=("--version",),
    source="program.rb",
    compile=("{tool}", "-c", "{source}"),
    run=lambda main, memory_mb: ["{tool}", "{source}"],
    report=before(r"\n  end\nend", "\n    File.write('{path}', ({a} * {b}).to_s)"),
    assertion=r"^Failure: |AssertionFailedError",
    no_memory=r"NoMemoryError|failed to allocate memory",
    known_right=KnownRight(
        "def f(x)\n",
        "  x + 1\nend",
        "require 'test/unit'\nclass TestHumanEval < Test::Unit::TestCase\n  def test_f\n    candidate = method(:f)\n"
        "    assert_equal(2, candidate.call(1))\n  end\nend\n",
    ),
)
