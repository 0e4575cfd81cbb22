import pytest

from flextune.errors import UsageError
from flextune.tasks import Example, TrainingSet, load_benchmark, split


def test_examples_held_out_are_whole_problems_and_always_the_same():
    def examples(solutions):
        return [Example(f"APPS/{n}/{k}", "p", "c", upstream=f"apps/{n}") for n in range(10) for k in range(solutions)]

    def hold_out(count):
        return split.hold_out(
            TrainingSet("apps", examples(3), {}), TrainingSet("apps", examples(2), {"seed": 0}), count
        )

    learn, held = hold_out(5)
    assert len(held.examples) == 4  # of two problems, as they are drawn with seed 0
    assert len(learn.examples) == 24
    assert not {e.upstream for e in learn.examples} & {e.upstream for e in held.examples}
    assert held.provenance == {"seed": 0, "held out": 4}
    assert hold_out(5)[1] == held
    with pytest.raises(UsageError, match=r"training\.validation = 30: apps has 30 examples"):
        hold_out(30)


def test_a_problem_of_a_benchmark_goes_with_all_its_solutions(data):
    (benchmark,) = [load_benchmark("mbpp-java", data)]
    shared = benchmark.problems[0]
    solutions = [Example(f"{n}/{k}", "p", f"c{k}", upstream=n) for n in (shared.upstream, "other") for k in range(2)]
    kept = split.without_overlaps(TrainingSet("mine", solutions, {}), [benchmark], "drop")
    assert [example.id for example in kept.examples] == ["other/0", "other/1"]
    assert kept.provenance == {"dropped": 2}


def test_a_name_is_that_of_a_problem_or_of_the_one_it_was_translated_from(data):
    python, x, java = (load_benchmark(name, data) for name in ("humaneval", "humaneval-x-java", "humaneval-java"))

    def asked(*benchmarks, **names):
        return [[problem.task_id for problem in found.problems] for found in split.ask(benchmarks, **names)]

    assert asked(python, x, only=["HumanEval/0"]) == [["HumanEval/0"], ["Java/0"]]
    assert asked(python, x, without=["HumanEval/0"]) == [["HumanEval/1", "HumanEval/2"], ["Java/53"]]
    assert asked(x, java, only=["HumanEval/53"]) == [["Java/53"], ["HumanEval_53_add"]]
    assert asked(java, only=["HumanEval_53_add"]) == [["HumanEval_53_add"]]
    assert asked(python, only=["HumanEval/0", "HumanEval/2"], without=["HumanEval/0"]) == [["HumanEval/2"]]
    assert split.ask([python, java]) == [python, java]
    assert split.ask([python], only=["HumanEval/1"])[0].provenance == {**python.provenance, "asked": 1}


def test_names_that_no_problem_has(data):
    java = load_benchmark("humaneval-java", data)
    with pytest.raises(UsageError, match=r"evaluation.only: no problem of humaneval-java is called 'HumanEval/zero'"):
        split.ask([java], only=["HumanEval/zero"])
    with pytest.raises(UsageError, match=r"evaluation.without: .* did you mean humaneval_"):
        split.ask([java], without=[java.problems[0].task_id[:-1]])
    with pytest.raises(UsageError, match=r"leave no problem of basics-python: leave it out of evaluation\.benchmarks"):
        split.ask([java, load_benchmark("basics-python")], only=[java.problems[0].task_id])
