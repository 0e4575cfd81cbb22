r"""Chat models: what they are asked, and how their reply becomes a completion.

    completion = completion_of(chat(message(problem)), problem)

A chat model repeats the prompt, adds helper functions and examples, and talks; what is judged is
`prompt + completion + "\n" + tests` all the same.
"""

import ast
import re
import textwrap
import warnings

from flextune.languages import LANGUAGES
from flextune.tasks.problem import Problem, StandardInput, truncate

THOUGHTS = {
    **{f"<{name}>": f"</{name}>" for name in ("think", "thinking", "thought", "reasoning", "seed:think")},
    "[THINK]": "[/THINK]",  # Magistral
    "<|begin_of_thought|>": "<|end_of_thought|>",  # OpenThinker, Sky-T1
    "<|channel|>analysis": "<|channel|>final<|message|>",  # gpt-oss
}
"""How reasoning models mark the beginning and the end of their thoughts."""

BEGIN = rf"^[ \t]*(?:{'|'.join(map(re.escape, THOUGHTS))})|\Aanalysis(?=[A-Z])"
END = rf"(?:{'|'.join(map(re.escape, THOUGHTS.values()))}|assistantfinal)"
"""Both also as gpt-oss writes them where the tokenizer leaves out its special tokens."""

QUOTED = rf"^[ \t]*```.*\n(?:(?![ \t]*(?:```|{END}\s*$)).*\n)*(?:[ \t]*```\s*?$|.*\Z)|`[^`\n]+`"
"""A fenced block, without a line that only ends a thought, or code in a sentence."""

DEFINED = r"^(?:async +)?def +(\w+)"
CODE = r"^(?:import |from \S+ import |@|class |(?:async +)?def |\w+ *= *\S)"


def message(problem: Problem, plan: bool = False) -> str:
    """What a chat model is asked; with `plan`, to think in words before it writes code (chain of thought)."""
    fenced = f"```{problem.language}\n{problem.prompt.rstrip()}\n```"
    task = f"This is the beginning of a {problem.language} program:\n\n{fenced}"
    answer = (
        "the finished code, the lines above unchanged and what is missing added, as one fenced code block, "
        "without tests or examples of its use."
    )
    if plan:
        return f"{task}\n\nFirst think step by step, in a few sentences, how to finish it. Then give {answer}"
    return f"{task}\n\nFinish it. Reply with {answer}"


def completion_of(reply: str, problem: Problem) -> str:
    r"""The completion that a reply holds; it is final: stop strings no longer cut it.

    The thoughts of a reasoning model are left out. Where the token limit cut them, there is no answer, and the
    completion is empty.

    The code is the last fenced block that defines the asked function, else the longest block, else, without a fence,
    the reply itself from where code begins. A last block may be unclosed.

    - A block with only the body is the completion, up to where the function ends.
    - Python: a block that defines the function again follows the prompt as it is, since the later definition counts.
      What stands after the last definition, examples of use as a rule, is left out.
    - C++: a block with more than the function goes into a namespace, and the tests call the function in there.
    - Java, C#, JavaScript, TypeScript, PHP, Go, Rust: the body is what stands between the function's braces. Helpers of
      the same class or file follow it, a `main` and, in scripts, other statements do not. What cannot follow is lost:
      imports beyond those of the prompt (but Rust's), Java's and C#'s classes beside that of the prompt. A parameter
      that the block renames does not compile.
    - Other languages: the text after the signature, up to its `end` or a stop string; helpers are lost.
    - Where a fence is unclosed or missing, last lines that do not parse are left out in Python, and what stands after
      the function in languages with braces: the limit may have cut it, or it is no code.

    >>> problem = Problem("a", "python", "def twice(x):\n    '''2x'''\n", "assert twice(1) == 2")
    >>> completion_of("Sure:\n```python\nreturn 2 * x\n```\nIt doubles.", problem)
    '    return 2 * x'
    """
    answer = _without_thoughts(reply)
    if not answer.strip():
        return ""
    code, whole = _code(answer, problem)
    if isinstance(problem.tests, StandardInput):
        return code
    if problem.language == "python":
        return _python(code, problem, whole)
    if not _asked(problem)[1]:
        return code
    return _braces(code, problem, whole) if _has_braces(problem.language) else _other(code, problem)


def _without_thoughts(reply: str) -> str:
    """What follows the last end of a thought, up to a thought that does not end; tags in code do not count.

    >>> _without_thoughts("<think>Twice.</think>2 * x"), _without_thoughts("Twice.</think>2 * x")
    ('2 * x', '2 * x')
    >>> _without_thoughts("<think>Twice is"), _without_thoughts("The tag `</think>` ends it.")
    ('', 'The tag `</think>` ends it.')
    """
    bare = re.sub(QUOTED, lambda code: " " * len(code[0]), reply, flags=re.M)
    start = max((tag.end() for tag in re.finditer(END, bare)), default=0)
    unended = re.search(BEGIN, bare[start:], flags=re.M)
    return reply[start : start + unended.start() if unended else None]


def _code(reply: str, problem: Problem) -> tuple[str, bool]:
    """The code in a reply, and if its end was marked."""
    fences = r"^([ \t]*)```[^\n]*\n(.*?)(^[ \t]*```[ \t]*$|\Z)"
    found = [match.groups() for match in re.finditer(fences, reply, flags=re.M | re.S)]
    blocks = [(re.sub(f"^{indent}", "", code, flags=re.M), bool(end)) for indent, code, end in found if code.strip()]
    if blocks:
        defining = [block for block in blocks if _defines(block[0], problem)]
        return defining[-1] if defining else max(blocks, key=lambda block: len(block[0]))
    code = reply.partition("```")[0]
    start = re.search(CODE, code, flags=re.M) if problem.language == "python" else _signature(code, problem)
    return code[start.start() :] if start else code, False


def _has_braces(language: str) -> bool:
    return language in LANGUAGES and LANGUAGES[language].functions_end == "brace"


def _defines(code: str, problem: Problem) -> bool:
    if problem.language != "python":
        return _signature(code, problem) is not None
    names = set(re.findall(DEFINED, code, flags=re.M))
    if _margin(problem.prompt):
        return re.findall(DEFINED, problem.prompt, flags=re.M)[-1] in names
    return any(re.search(rf"\b{name}\b", str(problem.tests)) for name in names)


def _margin(prompt: str) -> str:
    """The white space before each statement that follows a Python prompt; none if no function is open at its end."""
    indent = re.search(r"([ \t]*)\S[^\n]*\s*\Z", prompt)
    margin = (indent and indent[1]) or "    "
    inside = re.search(DEFINED, prompt, flags=re.M) and _parse(f"{prompt}\n{margin}pass")
    return margin if inside else ""


def _python(code: str, problem: Problem, whole: bool) -> str:
    prompt, margin = problem.prompt, _margin(problem.prompt)
    again = _defines(code, problem)
    lines = code.splitlines()
    for end in range(len(lines), len(lines) - 1 if whole else 0, -1):
        text = "\n".join(lines[:end])
        if not margin:
            places = [text]
        elif again:
            places = [f"\n{margin}pass\n\n{text}"]
        else:  # as it stands; all at the left margin; only its first line at the left margin
            places = [text] if text.lstrip("\n")[:1].isspace() else []
            places += [textwrap.indent(textwrap.dedent(text), margin), margin + text.lstrip()]
        for place in places:
            tree = _parse(prompt + place)
            if tree is not None:
                kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
                last = max((node.end_lineno or 0 for node in tree.body if isinstance(node, kinds)), default=0)
                kept = "\n".join((prompt + place).split("\n")[:last])
                return kept.removeprefix(prompt) if kept.startswith(prompt) else place
    return code


def _parse(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _blank(code: str, language: str, strings: bool = True) -> str:
    """The code with spaces for its comments and strings, so that what is left are names and braces, at their places."""
    known = LANGUAGES[language]
    pattern = rf'(?P<comment>{known.comments})|"(?:\\.|[^"\\\n])*"|`[^`]*`|{known.quoted}'

    def spaces(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0]) if strings or match["comment"] else match[0]

    return re.sub(pattern, spaces, code, flags=re.S)


def _close(blank: str, start: int) -> int | None:
    """Where the brace that is open at `start` is closed."""
    depth = 1
    for match in re.compile("[{}]").finditer(blank, start):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.start()
    return None


def _open(blank: str) -> int:
    """The place after the innermost brace that is open at the end; 0 if none is."""
    opened = [0]
    for match in re.finditer("[{}]", blank):
        if match[0] == "{":
            opened.append(match.end())
        elif len(opened) > 1:
            opened.pop()
    return opened[-1]


def _asked(problem: Problem) -> tuple[str, str]:
    """The signature with which the prompt ends, and its name; empty if it ends with none."""
    text = problem.prompt
    if _has_braces(problem.language):
        text = _blank(text, problem.language)
        text = text[: _open(text)]
    line = text.rstrip().rpartition("\n")[2].strip()
    name = re.search(r"(\w+)\s*(?:=[^(]*)?\(", line)
    return (line, name[1]) if name else ("", "")


def _signature(code: str, problem: Problem) -> re.Match[str] | None:
    """Where the asked function begins: as in the prompt but for white space, else with its name."""
    line, name = _asked(problem)
    if not name:
        return None
    same = r"^[ \t]*" + r"\s*".join(re.escape(token) for token in re.findall(r"\w+|\S", line))
    if _has_braces(problem.language):
        code = _blank(code, problem.language)
        # a name, parameters, and a brace before the next statement
        like = rf"^[^\n;(]*\b{name}\s*(?:<[^\n(]*>\s*)?(?:=[^\n;(]*)?\((?:[^()]|\([^()]*\))*\)[^;{{}}\n.]*\s*\{{"
    else:
        like = rf"^[ \t]*(?:local +)?(?:def |function )?[ \t]*{name}[ \t]*\([^\n]*$"
    return re.search(same, code, flags=re.M) or re.search(like, code, flags=re.M)


def _braces(code: str, problem: Problem, whole: bool) -> str:
    language = problem.language
    blank, bare = _blank(code, language), _blank(code, language, strings=False)
    signature = _signature(code, problem)
    start, inside = signature.span() if signature else (0, 0)
    end = _close(blank, inside)
    body = code[inside:end].removeprefix("\n").rstrip()
    closed = str(problem.tests).lstrip().startswith("}")
    after = bare[end + 1 : _close(blank, end + 1)] if whole and end is not None else ""
    helpers = _helpers(_news(bare[_open(blank[:start]) : start], problem), after, language)
    if LANGUAGES[language].overloads_by_order:
        if signature and (helpers.strip() or signature[0].split() != _asked(problem)[0].split()):
            return _namespace(code if whole or end is None else code[: end + 1], problem, closed)
    elif helpers.strip():
        return f"{body}\n}}\n{helpers}\n{LANGUAGES[language].reopens if closed else ''}"
    return body if closed else f"{body}\n}}\n"


def _namespace(code: str, problem: Problem, closed: bool) -> str:
    """C++ knows only what stands above, so the prompt's function is left unused and the block stands after it."""
    include = r"^[ \t]*#[ \t]*include\b.*\n?"
    includes, code = "".join(re.findall(include, code, flags=re.M)), re.sub(include, "", code, flags=re.M)
    end = "" if closed else "}\n"
    name = _asked(problem)[1]
    return f"    throw 0;\n}}\n{includes}namespace reply {{\n{code}\n{end}#define {name} reply::{name}\n"


def _news(code: str, problem: Problem) -> str:
    """What stands before the asked function, without what the prompt has and without imports that cannot follow it."""
    prompt = _blank(problem.prompt, problem.language, strings=False)
    if "".join(code.split()) in "".join(prompt.split()):
        return ""
    had = {line.strip() for line in prompt.splitlines()}
    imports = r"^[ \t]*(?:import\s*\([^)]*\)|(?:import|package|use|using|#[ \t]*include|<\?php)\b.*)$"

    def kept(match: re.Match[str]) -> str:
        statement = match[0].strip()
        lost = LANGUAGES[problem.language].lost_imports
        return "" if statement in had or statement.startswith(lost) else match[0]

    return re.sub(imports, kept, code, flags=re.M)


def _helpers(before: str, after: str, language: str) -> str:
    """What stands around the asked function, without `main` and, in scripts, without the statements after it."""

    def spans(code: str, pattern: str) -> list[tuple[int, int]]:
        blank = _blank(code, language)
        found = [(match.start(), _close(blank, match.end())) for match in re.finditer(pattern, blank, flags=re.M)]
        return [(start, end + 1) for start, end in found if end is not None]

    if LANGUAGES[language].script:
        definition = r"^(?:async +)?(?:function|class|interface|(?:const|let|var) +\w+ *=[^;{]*=>)[^;{]*\{"
        return before + "\n".join(after[start:end] for start, end in spans(after, definition))
    code = before + after
    for start, end in reversed(spans(code, r"^[^\n;{}]*\b[mM]ain\s*\([^;{]*\{")):
        code = code[:start] + code[end:]
    return code


def _other(code: str, problem: Problem) -> str:
    signature = _signature(code, problem)
    text = code[signature.end() :].removeprefix("\n") if signature else code
    end = re.search(r"^end\b", text, flags=re.M)
    # a blank line ends a base model's function in Ruby and Lua, but a chat model writes them inside
    return text[: end.end()] if end else truncate(text, [stop for stop in problem.stop if stop.strip()])
