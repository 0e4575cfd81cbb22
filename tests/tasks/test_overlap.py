from dataclasses import replace

from flextune.tasks import load_benchmark, load_training_set
from flextune.tasks.overlap import find_overlaps, normal_code
from flextune.tasks.problem import Example, Problem

PROBLEM = Problem(
    "p/1",
    "python",
    'def total(items):\n    """Add up the items of a basket."""\n',
    "",
    upstream="set/1",
    solution="    result = 0\n    for item in items:\n        result += item\n    return result\n",
)


def kinds(prompt, completion, upstream=""):
    return [overlap.kind for overlap in find_overlaps([Example("e", prompt, completion, upstream)], [PROBLEM])]


def test_the_same_problem_is_found_however_it_is_dressed():
    other = 'def f(x):\n    """Something else."""\n'
    assert kinds(other, "    return 1\n", upstream="set/1") == ["upstream"]
    assert kinds('def add(xs):\n    """ADD up   the items of a\n    basket."""\n', "    return 1\n") == ["prompt"]
    renamed = "    s = 0\n    for v in x:\n        s += v\n    return s\n"
    assert kinds(other, renamed) == ["solution"]
    assert kinds("### Instruction: sum\n", f"def f(x):\n{renamed}") == ["solution"]
    assert kinds(other, "    return sum(x)\n", upstream="set/2") == []


def test_prompts_of_other_scripts_are_texts_too():
    problem = Problem("p/3", "python", 'def f():\n    """返回两个数的和"""\n', "")
    other = Example("e", 'def f():\n    """把字符串反过来"""\n', "pass\n")
    assert not find_overlaps([other], [problem])
    assert find_overlaps([Example("e", problem.prompt, "pass\n")], [problem])
    empty = Problem("p/4", "python", "def f():\n", "")
    assert not find_overlaps([Example("e", "def g():\n", "    return 1\n")], [replace(empty, prompt="\n")])


def test_constants_and_called_functions_are_not_names():
    assert normal_code("x = len(y)") != normal_code("x = max(y)")
    assert normal_code("x = 1") != normal_code("x = 2")


def test_words_in_a_row_are_only_a_hint():
    words = "one two three four five six seven eight nine ten eleven twelve thirteen"
    problem = Problem("p/2", "python", f'def f():\n    """{words} again."""\n', "")
    found = find_overlaps([Example("e", f"# so {words} more\n", "pass\n")], [problem])
    assert [(overlap.kind, overlap.certain) for overlap in found] == [("n-gram", False)]
    assert not find_overlaps([Example("e", f"# so {words} more\n", "pass\n")], [problem], hints=False)


def test_translations_of_mbpp_are_mbpp(data):
    examples = load_training_set("mbpp", data).examples
    found = find_overlaps(examples, load_benchmark("mbpp-java", data).problems)
    assert [(o.example, o.problem, o.kind) for o in found] == [("MBPP/603", "mbpp_603_get_ludic", "upstream")]


def test_mbpp_and_humaneval_share_two_solutions(full_data):
    examples = load_training_set("mbpp", full_data).examples
    found = find_overlaps(examples, load_benchmark("humaneval", full_data).problems)
    certain = find_overlaps(examples, load_benchmark("humaneval", full_data).problems, hints=False)
    assert certain == [overlap for overlap in found if overlap.certain]
    assert {(o.example, o.problem) for o in certain} == {
        ("MBPP/792", "HumanEval/23"),
        ("MBPP/960", "HumanEval/55"),
    }
