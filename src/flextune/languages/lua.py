"""Lua."""

from flextune.languages.ends import before
from flextune.languages.language import KnownRight, Language, Package

LANGUAGE = Language(
    name="lua",
    title="Lua",
    comment="--",
    functions_end="word",
    tool="lua5.4",
    packages=(
        Package("lua5.4", "command -v lua5.4"),
        Package("lua-unit", "lua5.4 -e \"require 'luaunit'\""),
    ),
    version=("-v",),
    source="program.lua",
    compile=("{tool}", "-e", "assert(loadfile('{source}'))"),
    run=lambda main, memory_mb: ["{tool}", "{source}"],
    report=before(
        r"\nend\n+os\.exit\(lu\.LuaUnit\.run\(\)\)",
        "\n    local report = io.open('{path}', 'w'); report:write({a} * {b}); report:close()",
    ),
    assertion=r"\b\d+ failure",
    no_memory=r"not enough memory|luaunit\.lua:\d+: attempt to index a string value \(local 'err'\)",
    known_right=KnownRight(
        "local function f(x)\n",
        "  return x + 1\nend",
        "lu = require('luaunit')\n\nfunction test_humaneval()\nlocal candidate = f\n"
        "    lu.assertEquals(candidate(1), 2)\nend\n\nos.exit(lu.LuaUnit.run())",
    ),
)
