"""Go, whose programs are tests."""

import re

from flextune.languages.ends import before_braces
from flextune.languages.language import KnownRight, Language, Package, Warm

PACKAGES = (
    "bufio bytes container/heap container/list crypto/md5 crypto/sha256 encoding/hex encoding/json errors fmt math"
    " math/big math/bits math/rand os reflect regexp sort strconv strings sync testing time unicode unicode/utf8"
)
IMPORTS = "package warm_test\n" + "".join(f'import _ "{name}"\n' for name in PACKAGES.split())

LANGUAGE = Language(
    name="go",
    title="Go",
    mbxp="go",
    comment="//",
    functions_end="brace",
    tool="go",
    packages=(Package("golang-go", "command -v go"),),
    version=("version",),
    source="program_test.go",
    compile=("{tool}", "test", "-c", "-o", "{program}/program", "{source}"),
    run=lambda main, memory_mb: ["{program}/program"],
    prepare=lambda prompt: re.sub(r"^(package \w+)", r'\1; import flextune "os"', prompt, count=1, flags=re.M),
    report=before_braces(
        1,
        '    if !t.Failed() {{ flextune.WriteFile("{path}", []byte(fmt.Sprint(int64({a}) * int64({b}))), 0) }}',
    ),
    assertion=r"expected '[\s\S]*', got '",
    no_memory=r"runtime: out of memory|cannot allocate memory",
    bounded_by="DATA",
    environment={"GO111MODULE": "off", "GOFLAGS": "", "GOCACHE": "{warm}/cache", "GOTELEMETRY": "off"},
    warm=Warm(
        file="warm_test.go",
        text=IMPORTS,
        command=("{tool}", "test", "-c", "-o", "{warm}/program", "{warm}/warm_test.go"),
    ),
    known_right=KnownRight(
        'package f_test\n\nimport (\n    "testing"\n    "fmt"\n    "os"\n)\n\nvar _ = os.Args\n\nfunc f(x int) int {\n',
        "    return x + 1\n}",
        "func TestF(t *testing.T) {\n  candidate := f\n\ttype test struct {\n\t\tactual   interface{}\n"
        "\t\texpected interface{}\n\t}\n   tests := []test{\n     { actual: candidate(1), expected: 2 },\n   }\n\n"
        '\tfor i, tc := range tests {\n\t\tt.Run(fmt.Sprintf("test num % d", i), func(t *testing.T) {\n'
        '\t\t\tif fmt.Sprintf("%v", tc.actual) != fmt.Sprintf("%v", tc.expected) {\n'
        "\t\t\t\tt.Errorf(\"expected '%s', got '%s'\", tc.expected, tc.actual)\n\t\t\t}\n\t\t})\n\t}\n}\n",
    ),
)
