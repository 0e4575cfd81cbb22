"""APPS as a training set: difficulties, and several solutions of a problem."""

import json

import pytest

from flextune.errors import FlextuneError, UsageError
from flextune.tasks import apps, load_training_set
from flextune.tasks.overlap import find_overlaps
from flextune.tasks.problem import Problem

CODES = [f"print({number})" for number in range(40)]


def write(folder, solutions):
    """A training file of made-up problems: id to its solutions."""
    (folder / "apps").mkdir(exist_ok=True)
    rows = [
        {
            "problem_id": problem,
            "question": f"Print the number {problem}.",
            "solutions": json.dumps(codes),
            "input_output": "",
            "difficulty": "interview",
            "starter_code": "",
        }
        for problem, codes in solutions.items()
    ]
    (folder / "apps" / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def learned(folder, **options):
    """Ids and completions of the examples."""
    return {example.id: example.completion for example in load_training_set("apps", folder, **options).examples}


def test_one_solution_is_the_first(tmp_path):
    found = load_training_set("apps", write(tmp_path, {7: CODES, 8: [], 9: CODES[5:]}), seed=3)
    assert {example.id: example.completion for example in found.examples} == {
        "APPS/7": "print(0)\n",
        "APPS/9": "print(5)\n",
    }
    assert found.provenance["solutions"] == 1


def test_several_solutions_are_drawn_by_the_seed_and_stand_in_their_order(tmp_path):
    folder = write(tmp_path, {7: CODES})
    found = learned(folder, solutions=6, seed=1)
    places = [int(name.removeprefix("APPS/7/")) for name in found]
    assert len(places) == 6
    assert places == sorted(places)
    assert [found[f"APPS/7/{place}"] for place in places] == [f"{CODES[place]}\n" for place in places]
    assert places != list(range(6))
    assert learned(folder, solutions=6, seed=1) == found
    assert learned(folder, solutions=6, seed=2) != found
    provenance = load_training_set("apps", folder, solutions=6, seed=1).provenance
    assert (provenance["solutions"], provenance["seed"]) == (6, 1)


def test_a_draw_depends_on_the_problem_alone(tmp_path):
    def places(found, problem):
        return [name.rpartition("/")[2] for name in found if name.startswith(f"APPS/{problem}/")]

    alone = learned(write(tmp_path, {8: CODES}), solutions=6)
    among = learned(write(tmp_path, {7: CODES, 9: CODES[:3], 8: CODES}), solutions=6)
    assert places(among, 8) == places(alone, 8)
    assert places(among, 7) != places(among, 8)
    assert places(among, 9) == ["0", "1", "2"]


def test_solutions_that_differ_in_layout_only_count_once(tmp_path):
    folder = write(tmp_path, {7: ["a = 1\nprint(a)", "a = 1\n\n\nprint(a)  ", "a = 1\r\nprint(a)\n", "print(1)"]})
    assert learned(folder, solutions=4) == {"APPS/7/0": "a = 1\nprint(a)\n", "APPS/7/3": "print(1)\n"}


def test_integers_longer_than_python_reads_are_tests_all_the_same():
    long = "9" * 5000
    cases = f'{{"fn_name": "f", "inputs": [[{long}]], "outputs": [{long}]}}'
    row = {"problem_id": 7, "starter_code": "", "input_output": cases}
    tests = apps.tests_of(row)
    exec(f"def f(value):\n    return value\n{tests}")
    with pytest.raises(AssertionError):
        exec(f"def f(value):\n    return value - 1\n{tests}")
    spoken = apps.tests_of({**row, "input_output": f'{{"inputs": [{long}], "outputs": ["1\\n"]}}'})
    assert spoken.inputs == (long,)


def test_a_problem_without_tests_and_one_with_too_few():
    assert apps.tests_of({"input_output": ""}) is None
    assert apps.tests_of({"input_output": '{"inputs": [], "outputs": []}'}) is None
    with pytest.raises(FlextuneError, match="APPS/7: 2 inputs and 1 outputs; expected as many of both"):
        apps.tests_of({"problem_id": 7, "input_output": '{"inputs": ["1", "2"], "outputs": ["1"]}'})


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ('{"inputs": [', r"input_output is not valid JSON \(Expecting value, character 12\)"),
        ("[1]", r"input_output holds \[1\]; expected an object"),
        ('{"inputs": ["1"]}', "outputs holds None; expected a list"),
        ('{"inputs": "1", "outputs": ["1"]}', "inputs holds '1'; expected a list"),
    ],
)
def test_tests_that_cannot_be_read_name_their_problem(cases, message):
    with pytest.raises(FlextuneError, match=f"APPS/7: {message}"):
        apps.tests_of({"problem_id": 7, "input_output": cases})


@pytest.mark.parametrize("solutions", ['{"a": 1}', "[1]"])
def test_solutions_are_a_list_of_texts(tmp_path, solutions):
    path = write(tmp_path, {7: CODES}) / "apps" / "train.jsonl"
    path.write_text(json.dumps({**json.loads(path.read_text()), "solutions": solutions}))
    with pytest.raises(FlextuneError, match=r"APPS/7: solutions holds .*; expected a list of texts"):
        load_training_set("apps", tmp_path)


@pytest.mark.parametrize("name", ["basics", "mbpp", "mbpp-validation", "code-search-net", "apps-own.jsonl"])
def test_other_sets_have_one_solution(data, name):
    with pytest.raises(
        UsageError, match=rf"training\.solutions = 2: only APPS has several of a problem, {name} has one"
    ):
        load_training_set(name, data, solutions=2)


def test_all_solutions_of_a_problem_overlap_with_it(tmp_path):
    examples = load_training_set("apps", write(tmp_path, {0: CODES[:2], 1: CODES[:2]}), solutions=2).examples
    problem = Problem("X/0", "python", "", "", upstream="apps-train/0")
    found = find_overlaps(examples, [problem])
    assert [(overlap.example, overlap.kind) for overlap in found] == [
        ("APPS/0/0", "upstream"),
        ("APPS/0/1", "upstream"),
    ]


@pytest.mark.parametrize(
    ("name", "solved"),
    [
        ("apps", {1: 3, 111: 1, 2287: 3, 2404: 3, 4184: 3}),
        ("apps-introductory", {2404: 3, 4184: 3}),
        ("apps-interview", {1: 3, 111: 1}),
        ("apps-competition", {2287: 3}),
    ],
)
def test_difficulties_and_solutions_of_real_rows(full_data, name, solved):
    first = load_training_set(name, full_data)
    assert [example.id for example in first.examples] == [f"APPS/{problem}" for problem in solved]
    assert first.provenance["rows"] == len(solved)
    three = load_training_set(name, full_data, solutions=3).examples
    counted = [example.upstream for example in three]
    assert {problem: counted.count(f"apps-train/{problem}") for problem in solved} == solved
    assert len({example.completion for example in three}) == len(three) == sum(solved.values())
