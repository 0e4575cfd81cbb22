"""What was written before: found again, whoever wrote it, and never half of it."""

import json
import multiprocessing
import threading
from dataclasses import replace

import pytest
from filelock import FileLock

from flextune.generation.backend import Request, Text
from flextune.generation.cache import TextCache

ABOUT = {"model": {"sha256": "1"}, "decoding": {"kind": "sampling"}}
REQUEST = Request("def f():\n", ("\ndef",), 3)
TEXT = Text("    return 'é€\u2028'\n\ndef", "stop", 5)


def put(cache, *seeds):
    cache.put((replace(REQUEST, seed=seed), replace(TEXT, tokens=seed)) for seed in seeds)


def found(*seeds):
    cache = TextCache(ABOUT)
    return [text and text.tokens for text in (cache.get(replace(REQUEST, seed=seed)) for seed in seeds)]


def test_what_was_put_is_found_as_it_was():
    cache = TextCache(ABOUT)
    assert cache.get(REQUEST) is None
    cache.put([(REQUEST, TEXT)])
    assert TextCache(ABOUT).get(REQUEST) == TEXT


@pytest.mark.parametrize(
    "other",
    [{"prompt": "def g():\n"}, {"stop": ("\nclass",)}, {"stop": ()}, {"seed": 4}, {"chat": True}],
    ids=str,
)
def test_another_request_is_not_found(other):
    TextCache(ABOUT).put([(REQUEST, TEXT)])
    assert TextCache(ABOUT).get(replace(REQUEST, **other)) is None


def test_another_combination_has_a_file_of_its_own(own_cache):
    TextCache(ABOUT).put([(REQUEST, TEXT)])
    other = TextCache({**ABOUT, "model": {"sha256": "2"}})
    assert other.get(REQUEST) is None
    other.put([(REQUEST, TEXT)])
    assert len(list((own_cache / "completions").glob("*.jsonl"))) == 2


def test_the_order_of_what_it_is_about_does_not_matter():
    assert TextCache(dict(reversed(ABOUT.items()))).path == TextCache(ABOUT).path


def test_the_first_line_tells_what_it_holds():
    cache = TextCache(ABOUT)
    put(cache, 1)
    put(cache, 2)
    first, *rest = cache.path.read_text().split("\n")
    assert json.loads(first) == ABOUT
    assert [json.loads(row)["tokens"] for row in rest[:-1]] == [1, 2]


def test_two_that_write_in_turns():
    one, two = TextCache(ABOUT), TextCache(ABOUT)
    put(one, 1)
    put(two, 2, 3)
    put(one, 4)
    assert found(1, 2, 3, 4, 5) == [1, 2, 3, 4, None]


@pytest.mark.parametrize("torn", [b'{"key": "12', b'{"key": "\xe2\x82', b"{"])
def test_a_torn_last_line_is_lost_alone(torn):
    cache = TextCache(ABOUT)
    put(cache, 1, 2)
    with cache.path.open("ab") as file:
        file.write(torn)
    assert found(1, 2) == [1, 2]
    put(TextCache(ABOUT), 3)
    assert found(1, 2, 3) == [1, 2, 3]
    for line in cache.path.read_text().removesuffix("\n").split("\n"):
        json.loads(line)


@pytest.mark.parametrize("damaged", ["{\n", "[]\n", '{"key": 1}\n'])
def test_a_damaged_line_is_lost_alone(damaged):
    cache = TextCache(ABOUT)
    put(cache, 1, 2)
    first, one, rest = cache.path.read_text().split("\n", 2)
    cache.path.write_text(f"{first}\n{one}\n{damaged}{rest}")
    assert found(1, 2) == [1, 2]


def test_a_torn_first_line_is_written_again():
    cache = TextCache(ABOUT)
    cache.path.parent.mkdir(parents=True)
    cache.path.write_text('{"model":')
    assert found(1) == [None]
    put(cache, 1)
    assert found(1) == [1]
    assert json.loads(cache.path.read_text().splitlines()[0]) == ABOUT


def test_a_writer_waits_for_another():
    cache = TextCache(ABOUT)
    put(cache, 1)
    writer = threading.Thread(target=put, args=(cache, 2))
    with FileLock(cache.path.with_suffix(".lock")):
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        assert found(1, 2) == [1, None]  # a reader does not
    writer.join(10)
    assert found(1, 2) == [1, 2]


def write_many(first):
    cache = TextCache(ABOUT)
    for number in range(first, first + 40):
        put(cache, number)


def test_processes_that_write_at_once():
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_many, args=(first,)) for first in (0, 40, 80)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert found(*range(120)) == list(range(120))
    assert TextCache(ABOUT).path.read_bytes().count(b"\n") == 121
