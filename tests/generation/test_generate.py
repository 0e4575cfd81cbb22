"""The stage `generate`: what stands in its file, what is asked, in which batches, and what is taken from the cache."""

import datetime
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fake_backend import FakeBackend, KilledError

from flextune.files import read_jsonl
from flextune.generation import engine as engine_module
from flextune.generation.backend import Text
from flextune.generation.engine import Engine
from flextune.generation.generate import generate, sample_seed
from flextune.generation.settings import Decoding, Generation
from flextune.models import ModelSource, find_model
from flextune.tasks import Problem, load_benchmark

GREEDY = Decoding()
SAMPLING = Decoding(kind="sampling", temperature=0.8, samples=3)
SOURCE = ModelSource(Path("m"), {"folder": "m", "sha256": {"model.safetensors": "1"}})
PROBLEMS = [Problem(f"t/{n}", "python", "x" * length, "") for n, length in enumerate((3, 9, 1, 9, 5))]


@pytest.fixture
def written(monkeypatch, tmp_path):
    """Write a file with a fake backend, which is returned, in an engine of its own as in a process of its own."""

    def written(name="c.jsonl", backend=None, problems=PROBLEMS, source=SOURCE, dtype="auto", generation=None, **how):
        backend = backend or FakeBackend()
        monkeypatch.setattr(engine_module, "load", backend.load)
        settings = Generation(**{"batch_size": 4, **(generation or {})})
        generate(Engine(source, settings, dtype), problems, tmp_path / name, **{"decoding": GREEDY, **how})
        return backend

    return written


def rows_of(path):
    return list(read_jsonl(path))


# The file


def test_a_row_for_each_problem_and_sample_in_their_order(written, tmp_path):
    written(decoding=SAMPLING)
    rows = rows_of(tmp_path / "c.jsonl")
    assert [(row["task_id"], row["sample"]) for row in rows] == [(p.task_id, n) for p in PROBLEMS for n in range(3)]
    for row in rows:
        assert list(row) == ["task_id", "sample", "completion", "raw", "finish_reason", "tokens"]
        assert f"|{sample_seed(0, row['task_id'], row['sample'])}|" in row["raw"]
        assert (row["finish_reason"], row["tokens"]) == ("stop", len(row["raw"]))


def test_a_completion_ends_before_the_stop_string_and_raw_is_whole(written, tmp_path):
    text = Text("    return 1\ndef main():", "length", 9)
    written(backend=FakeBackend(lambda _: text), problems=[Problem("t/0", "python", "def f():\n", "", ("\ndef",))])
    (row,) = rows_of(tmp_path / "c.jsonl")
    assert (row["completion"], row["raw"]) == ("    return 1", "    return 1\ndef main():")
    assert (row["finish_reason"], row["tokens"]) == ("length", 9)


def test_what_is_there_is_left_alone(written, tmp_path):
    (tmp_path / "c.jsonl").write_text("whole\n")
    assert written().loads == 0
    assert (tmp_path / "c.jsonl").read_text() == "whole\n"


def test_requests_carry_the_stop_strings_and_the_seed_of_their_sample(written):
    problem = Problem("t/7", "python", "def f():\n", "", ("\ndef", "\nclass"))
    backend = written(problems=[problem], decoding=SAMPLING, seed=3)
    assert {request.stop for request in backend.asked} == {("\ndef", "\nclass")}
    assert sorted(request.seed for request in backend.asked) == sorted(sample_seed(3, "t/7", n) for n in range(3))
    assert len({sample_seed(seed, task, n) for seed in (0, 1) for task in ("a", "b") for n in (0, 1)}) == 8


def test_a_chat_is_asked_as_one(written, tmp_path):
    reply = "Sure:\n```python\ndef f():\n    return 1\n```\nThat was it."
    problem = Problem("t/0", "python", "def f():\n", "assert f() == 1", ("\ndef",))
    (asked,) = written(backend=FakeBackend(lambda _: reply), problems=[problem], generation={"chat": True}).asked
    assert (asked.chat, asked.stop) == (True, ())
    (row,) = rows_of(tmp_path / "c.jsonl")
    assert row["raw"] == reply
    assert "return 1" in row["completion"]
    assert "```" not in row["completion"]


def test_the_variant_is_used(written):
    assert written().used == [(None, False)]


# Batches


def test_batches_are_sorted_by_length_with_the_longest_first(written):
    backend = written(decoding=replace(SAMPLING, samples=2))
    assert [[len(request.prompt) for request in batch] for batch in backend.batches] == [
        [9, 9, 9, 9],
        [5, 5, 3, 3],
        [1, 1],
    ]


@pytest.fixture(scope="module")
def draws(tiny_model, tmp_path_factory):
    """20 samples of 3 problems, as bytes, by the batch size they were written with."""
    found = {}
    problems = load_benchmark("basics-python", limit=3).problems
    for size in (1, 7, 32):
        path = tmp_path_factory.mktemp("draws") / "c.jsonl"
        engine = Engine(
            find_model(str(tiny_model)), Generation(max_new_tokens=12, batch_size=size, concurrency=size), "float32"
        )
        generate(engine, problems, path, decoding=replace(SAMPLING, samples=20))
        found[size] = path.read_bytes()
    return found


def test_draws_do_not_depend_on_the_batch_size(draws):
    assert draws[1].count(b"\n") == 60
    assert draws[7] == draws[1]
    assert draws[32] == draws[1]


# Interruptions


def test_an_interrupted_stage_repeats_no_batch_and_ends_the_same(written, tmp_path, monkeypatch):
    whole = written("whole.jsonl", decoding=SAMPLING, seed=3)
    monkeypatch.setenv("FLEXTUNE_CACHE", str(tmp_path / "other"))
    dying = FakeBackend(dies_at=2)
    with pytest.raises(KilledError):
        written("parts.jsonl", dying, decoding=SAMPLING, seed=3)
    assert not (tmp_path / "parts.jsonl").exists()
    assert len(rows_of(tmp_path / "parts.partial.jsonl")) == 8
    monkeypatch.setenv("FLEXTUNE_CACHE", str(tmp_path / "a third"))  # the journal is what it goes on from
    rest = written("parts.jsonl", decoding=SAMPLING, seed=3)
    assert dying.batches + rest.batches == whole.batches
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "parts.partial.jsonl").exists()


def test_a_batch_that_was_torn_is_asked_whole(written, tmp_path, monkeypatch):
    whole = written("whole.jsonl", decoding=SAMPLING)
    with pytest.raises(KilledError):
        written("parts.jsonl", FakeBackend(dies_at=2), decoding=SAMPLING, dtype="bfloat16")
    journal = tmp_path / "parts.partial.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])  # seven rows and a part of one
    monkeypatch.setenv("FLEXTUNE_CACHE", str(tmp_path / "other"))
    assert written("parts.jsonl", decoding=SAMPLING, dtype="bfloat16").batches == whole.batches[1:]
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_restart_asks_the_same_batches_when_a_part_came_from_the_cache(written, tmp_path):
    fewer = replace(SAMPLING, samples=1)
    written("fewer.jsonl", decoding=fewer)
    with pytest.raises(KilledError):
        written("parts.jsonl", dying := FakeBackend(dies_at=1), decoding=SAMPLING)
    # another run fills the cache with all that this one has still to write
    other = written("whole.jsonl", decoding=SAMPLING)
    assert len(other.asked) == 6
    rest = written("parts.jsonl", decoding=SAMPLING)
    asked = dying.batches + rest.batches
    lengths = [[len(request.prompt) for request in batch] for batch in asked]
    assert lengths == [[9, 9, 9, 9], [5, 5, 3, 3], [1, 1]]
    assert not {request.seed for request in rest.asked} & {sample_seed(0, p.task_id, 0) for p in PROBLEMS}
    rows = rows_of(tmp_path / "parts.jsonl")
    assert rows == rows_of(tmp_path / "whole.jsonl")
    assert not any("cached" in row for row in rows)


# The cache


def test_what_was_written_before_is_not_asked_again(written, tmp_path):
    written("one.jsonl", decoding=SAMPLING)
    again = written("two.jsonl", decoding=SAMPLING)
    assert (again.loads, again.batches) == (0, [])
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert b"cached" not in (tmp_path / "two.jsonl").read_bytes()
    assert not (tmp_path / "two.partial.jsonl").exists()


def test_more_samples_are_written_beside_the_first(written, tmp_path):
    written("two.jsonl", decoding=replace(SAMPLING, samples=2))
    backend = written("five.jsonl", decoding=replace(SAMPLING, samples=5))
    new = {sample_seed(0, problem.task_id, n) for problem in PROBLEMS for n in (2, 3, 4)}
    assert sorted(request.seed for request in backend.asked) == sorted(new)
    five = rows_of(tmp_path / "five.jsonl")
    assert len(five) == 25
    assert [row for row in five if row["sample"] < 2] == rows_of(tmp_path / "two.jsonl")


def test_greedy_does_not_depend_on_the_seed_and_draws_do(written):
    written("a.jsonl", seed=0)
    assert written("b.jsonl", seed=1).batches == []
    written("c.jsonl", seed=0, decoding=SAMPLING)
    assert len(written("d.jsonl", seed=1, decoding=SAMPLING).asked) == 15


def test_a_cut_completion_comes_whole_from_the_cache(written, tmp_path):
    problem = Problem("t/0", "python", "def f():\n", "", ("\ndef",))
    text = Text("    return 1\ndef main():", "length", 9)
    written("a.jsonl", FakeBackend(lambda _: text), [problem])
    assert written("b.jsonl", problems=[problem]).batches == []
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


OTHERWISE = {
    "length": {"generation": {"max_new_tokens": 7}},
    "batches": {"generation": {"batch_size": 2}},
    "chat": {"generation": {"chat": True}},
    "dtype": {"dtype": "bfloat16"},
    "temperature": {"decoding": replace(SAMPLING, temperature=0.7)},
    "top_p": {"decoding": replace(SAMPLING, top_p=0.7)},
    "top_k": {"decoding": replace(SAMPLING, top_k=7)},
    "weights": {"source": replace(SOURCE, provenance={"folder": "m", "sha256": {"model.safetensors": "2"}})},
    "quantization": {"source": replace(SOURCE, quantization="nf4")},
    "stop": {"problems": [replace(problem, stop=("\n",)) for problem in PROBLEMS]},
    "prompt": {"problems": [replace(problem, prompt=f"y{problem.prompt}") for problem in PROBLEMS]},
}


@pytest.mark.parametrize("other", OTHERWISE.values(), ids=OTHERWISE)
def test_nothing_is_taken_from_what_was_written_otherwise(written, other):
    how = {"decoding": SAMPLING}
    written("a.jsonl", **how)
    assert len(written("b.jsonl", **{**how, **other}).asked) == 15
    assert written("c.jsonl", **how).batches == []


def test_a_template_with_the_date_is_another_prompt_each_day(written, tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    source = replace(SOURCE, path=tmp_path / "m")
    chat = {"generation": {"chat": True}, "source": source}
    for template, same in (("{{ messages }}", True), ("{{ strftime_now('%d %b %Y') }}", False)):
        (tmp_path / "m" / "chat_template.jinja").write_text(template)
        monkeypatch.setattr(engine_module.datetime, "date", Day(1))
        written(f"first-{same}.jsonl", **chat)
        monkeypatch.setattr(engine_module.datetime, "date", Day(2))
        assert (written(f"second-{same}.jsonl", **chat).batches == []) == same
        assert written(f"third-{same}.jsonl", **chat).batches == []
        # the date is nothing to a prompt without template
        written(f"raw-{same}.jsonl", source=source)
        monkeypatch.setattr(engine_module.datetime, "date", Day(3))
        assert written(f"raw-again-{same}.jsonl", source=source).batches == []


REAL = datetime.date


class Day:
    """The place of `datetime.date` on some day of a month."""

    def __init__(self, number):
        self.number = number

    def today(self):
        return REAL(2026, 1, self.number)


def test_a_model_in_another_folder_is_the_same_model(written):
    written("a.jsonl")
    moved = replace(SOURCE, path=Path("n"), provenance={**SOURCE.provenance, "folder": "n"})
    assert written("b.jsonl", source=moved).batches == []


def test_another_number_of_workers_changes_no_text():
    one, two = (Engine(SOURCE, Generation(workers=workers)).about((None, False)) for workers in (1, 2))
    assert one == two


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"1")
    return folder


def test_an_adapter_has_texts_of_its_own(written, adapter):
    written("a.jsonl")
    beside = written("b.jsonl", variant=(adapter, False))
    assert (len(beside.asked), beside.used) == (5, [(adapter, False)])
    assert len(written("c.jsonl", variant=(adapter, True)).asked) == 5
    assert written("d.jsonl", variant=(adapter, False)).batches == []
    (adapter / "adapter_model.safetensors").write_bytes(b"2")
    assert len(written("e.jsonl", variant=(adapter, False)).asked) == 5


def test_an_adapter_below_is_part_of_the_model(written, adapter):
    below = replace(SOURCE, adapters=(adapter,))
    written("a.jsonl")
    assert len(written("b.jsonl", source=below).asked) == 5
    assert written("c.jsonl", source=below).batches == []
    (adapter / "adapter_config.json").write_text('{"r": 2}')
    assert len(written("d.jsonl", source=below).asked) == 5


def test_a_server_is_asked_every_time(written, own_cache):
    server = {"backend": "openai", "server": "http://localhost:1/v1"}
    for name in ("a.jsonl", "b.jsonl"):
        assert len(written(name, generation=server).asked) == 5
    assert not own_cache.exists()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json", "generation_config.json"])
def test_what_stands_beside_the_weights_is_part_of_the_model(written, tiny_model, tmp_path, name):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    written("a.jsonl", source=find_model(str(folder)))
    assert written("b.jsonl", source=find_model(str(folder))).batches == []
    # such as a chat template, or other ends of text
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, "chat_template": "{{ messages }}"}))
    assert len(written("c.jsonl", source=find_model(str(folder))).asked) == 5
