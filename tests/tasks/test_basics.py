"""Every reference solution passes its tests, and the tests do not pass everything."""

import pytest

from flextune.execution import Program, execute
from flextune.tasks import basics, load_benchmark, load_training_set
from flextune.tasks.overlap import find_overlaps
from flextune.tasks.problem import Example

LANGUAGES = ("python", "java", "javascript", "cpp")


def judged(problems, completions):
    programs = [
        Program(problem.task_id, 0, problem.language, problem.prompt, completion, problem.tests)
        for problem, completion in zip(problems, completions, strict=True)
    ]
    return {verdict.task_id: verdict.verdict for verdict in execute(programs)}


def test_size():
    assert len(basics.examples()[0]) >= 100
    assert all(len(basics.load(language)[0]) >= 40 for language in LANGUAGES)


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_reference_solutions_pass(language):
    problems = load_benchmark(f"basics-{language}").problems
    assert set(judged(problems, [problem.solution for problem in problems]).values()) == {"passed"}


def test_training_solutions_pass():
    problems = basics.training_problems()
    assert set(judged(problems, [problem.solution for problem in problems]).values()) == {"passed"}


def test_a_wrong_solution_fails():
    problems = load_benchmark("basics-python").problems
    wrong = [f"{problem.solution.rstrip().rpartition('return')[0]}return None\n" for problem in problems]
    assert set(judged(problems, wrong).values()) == {"wrong_answer"}


def test_all_languages_ask_the_same():
    asked = [[problem.task_id for problem in basics.load(language)[0]] for language in LANGUAGES]
    assert all(tasks == asked[0] for tasks in asked)


def as_examples(problems):
    return [Example(problem.task_id, problem.prompt, problem.solution) for problem in problems]


def test_nothing_is_learned_that_is_measured():
    problems = load_benchmark("basics-python").problems
    assert not find_overlaps(basics.examples()[0], problems)


def test_no_problem_is_humanevals(monkeypatch):
    monkeypatch.setattr("flextune.hub.online", lambda: False)
    published = load_benchmark("humaneval").problems
    own = as_examples(load_benchmark("basics-python").problems) + basics.examples()[0]
    assert len(published) == 164
    assert not find_overlaps(own, published)


def test_no_problem_is_mbpps(full_data):
    published = [
        *load_benchmark("mbpp", full_data).problems,
        *load_benchmark("mbpp-validation", full_data).problems,
    ]
    published_training = load_training_set("mbpp", full_data).examples
    own = as_examples(load_benchmark("basics-python").problems) + basics.examples()[0]
    assert not find_overlaps(own, published)
    assert not find_overlaps(published_training, basics.training_problems())
    assert not find_overlaps(published_training, load_benchmark("basics-python").problems)
