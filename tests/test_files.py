import errno
import json
import math
import os
from pathlib import Path

import pytest

from flextune import files
from flextune.errors import FlextuneError, UsageError
from flextune.files import (
    Journal,
    claim,
    publish,
    read_json,
    read_jsonl,
    read_yaml,
    sha256,
    write_atomic,
    write_json,
    write_jsonl,
    write_numbers,
)


def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    partial = tmp_path / ".adapter.partial"
    (partial / "below").mkdir(parents=True)
    for name in ("weights", "below/more"):
        (partial / name).write_text(name)
    synced, fsync, replace = set(), os.fsync, Path.replace

    def syncing(file):
        fsync(file)
        synced.add(os.fstat(file).st_ino)

    def replacing(path, target):
        assert {found.stat().st_ino for found in (partial, *partial.rglob("*"))} == synced
        return replace(path, target)

    monkeypatch.setattr(files.os, "fsync", syncing)
    monkeypatch.setattr(files.Path, "replace", replacing)
    publish(partial, tmp_path / "adapter")
    assert (tmp_path / "adapter/below/more").read_text() == "below/more"
    assert not partial.exists()


def test_what_was_read_can_be_changed_and_the_file_too(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("training: {epochs: 1}\n")
    read_yaml(path)["training"]["epochs"] = 2
    assert read_yaml(path) == {"training": {"epochs": 1}}
    path.write_text("training: {epochs: 3}\n")
    assert read_yaml(path) == {"training": {"epochs": 3}}


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' * 6 + '{"a": \n{"a": 1}\n')
    with pytest.raises(FlextuneError, match=r"rows\.jsonl, line 7: not valid JSON"):
        list(read_jsonl(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"b": 1}', "line 2: the key 'a' is missing \\(found b\\)"),
        ("[1]", "line 2: expected a JSON object, found list"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(FlextuneError, match=message):
        list(read_jsonl(path, ("a",)))


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n\xff\n')
    with pytest.raises(FlextuneError, match=r"rows\.jsonl.*not valid UTF-8"):
        list(read_jsonl(path))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    write_json(path, {"old": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_journal_goes_on_after_a_torn_line(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    Journal(path).append([{"n": 1}, {"n": 2}])
    with (tmp_path / "verdicts.partial.jsonl").open("a") as file:
        file.write('{"n": 3')
    journal = Journal(path)
    assert journal.rows == [{"n": 1}, {"n": 2}]
    assert not journal.complete
    journal.append([{"n": 3}])
    assert Journal(path).rows == [{"n": 1}, {"n": 2}, {"n": 3}]
    journal.finish(journal.rows)
    assert [row["n"] for row in read_jsonl(path)] == [1, 2, 3]
    assert list(tmp_path.iterdir()) == [path]


def test_a_journal_keeps_every_character(tmp_path):
    path = tmp_path / "completions.jsonl"
    row = {"completion": "a\u2028b\u0085c\r\nd\x0b\ud83d"}  # the last one is half a pair, which UTF-8 does not have
    Journal(path).append([row, row])
    assert Journal(path).rows == [row, row]


def test_opening_a_journal_again_writes_nothing(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    journal = Journal(path)
    journal.append([{"n": 1}])
    before = journal.partial.stat()
    assert Journal(path).rows == [{"n": 1}]
    after = journal.partial.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)


def test_a_damaged_journal_is_named(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    (tmp_path / "verdicts.partial.jsonl").write_text('{"n": 1}\n{"n": \n')
    with pytest.raises(FlextuneError, match=r"verdicts\.partial\.jsonl, line 2: not valid JSON"):
        Journal(path)


def test_a_journal_on_a_full_disk_keeps_whole_groups_only(tmp_path, monkeypatch):
    path = tmp_path / "verdicts.jsonl"
    journal = Journal(path)
    journal.append([{"n": 1}])

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            journal.append([{"n": 2}])
    assert Journal(path).rows == [{"n": 1}]


def test_the_checksum_of_a_folder_depends_on_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = sha256(tmp_path)
    (tmp_path / "a").write_text("2")
    assert sha256(tmp_path) != first
    (tmp_path / "a").write_text("1")
    assert sha256(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert sha256(tmp_path) != first


def test_a_card_beside_the_weights_is_no_part_of_their_checksum(tmp_path):
    (tmp_path / "a").write_text("1")
    first = sha256(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    (tmp_path / ".README.md.partial").write_text("half of one")
    assert sha256(tmp_path) == first
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "README.md").write_text("another text")
    assert sha256(tmp_path) != first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 200_000 + b"\n", "rows.jsonl, line 1: "),
        (b'{"a": 1}\n{"a": ' + b"1" * 5000 + b"}\n", "rows.jsonl, line 2: cannot be read"),
    ],
)
def test_a_line_that_python_cannot_read_is_named(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(FlextuneError, match=message):
        list(read_jsonl(path))


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    with pytest.raises(FlextuneError, match=r"a.json is not there"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'"\xff"')
    with pytest.raises(FlextuneError, match=r"a.json: not valid UTF-8"):
        read_json(tmp_path / "a.json")


def test_results_made_otherwise_are_not_mixed(tmp_path):
    claim(tmp_path / "execution.json", {"limits": {"cpu": 5}, "names": ("a",)})
    claim(tmp_path / "execution.json", {"limits": {"cpu": 5}, "names": ("a",)})
    with pytest.raises(UsageError, match=r"limits\.cpu is 5 there, 6 here; name another --output"):
        claim(tmp_path / "execution.json", {"limits": {"cpu": 6}, "names": ("a",)})


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_byte_order_mark_is_skipped(tmp_path, newline):
    for name, text in (
        ("rows.jsonl", '{"a": 1}\n{"a": 2}\n'),
        ("scores.json", '{"a":\n1}\n'),
        ("recipe.yaml", "a: 1\nb: 2\n"),
    ):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", newline).encode())
    assert list(read_jsonl(tmp_path / "rows.jsonl", ("a",))) == [{"a": 1}, {"a": 2}]
    assert read_json(tmp_path / "scores.json") == {"a": 1}
    assert read_yaml(tmp_path / "recipe.yaml") == {"a": 1, "b": 2}
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf")
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "b": 1, "prompt": "c"}', "the key 'prompt' appears twice"),
        ('{"prompt": "a", "b": [{"c": 1}, {"c": "{\\"", "\\u0063": 2}]}', "the key 'c' appears twice"),
        ('{"NaN": "Infinity", "a": [1, NaN]}', "NaN is not valid JSON; write a number or null"),
        ('{"a": "\\\\", "b": -Infinity}', "-Infinity is not valid JSON; write a number or null"),
    ],
)
def test_what_python_alone_would_read_is_refused_with_its_line(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n' + line + "\n")
    with pytest.raises(FlextuneError) as error:
        list(read_jsonl(path))
    assert str(error.value) == f"{path}, line 3: {message}"
    path = tmp_path / "rows.json"
    path.write_text('[{"a": {"b": "\\n"}},\n {"a": {"b": 2}},\n' + line + "\n]")
    with pytest.raises(FlextuneError) as error:
        read_json(path)
    assert str(error.value) == f"{path}, line 3: {message}"


def test_the_line_is_that_of_the_second_key(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"inputs": {"model": 1}, "seed": 0})
    path.write_text(path.read_text().replace('"seed": 0', '"inputs": 0'))
    with pytest.raises(FlextuneError, match=r"run\.json, line 5: the key 'inputs' appears twice"):
        read_json(path)


def test_keys_of_different_objects_may_be_the_same(tmp_path):
    path = tmp_path / "rows.jsonl"
    content = {"a": {"a": [{"a": 1}, {"a": 2}]}, "b": {"a": "a"}}
    write_jsonl(path, [content, content])
    assert list(read_jsonl(path)) == [content, content]


def test_the_configuration_of_a_model_is_read_as_transformers_reads_it(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"time_step_limit": [0.0, Infinity], "hidden_size": 1, "hidden_size": 2}')
    assert read_json(path, of_model=True) == {"time_step_limit": [0.0, math.inf], "hidden_size": 2}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_not_written(tmp_path, value):
    content = {"rows": [{"kl": 1.0}, {"kl": value}]}
    path = tmp_path / "file.json"
    for write in (write_json, write_numbers):
        with pytest.raises(FlextuneError, match=rf"{path}: rows\[1\]\.kl = {value}: JSON has only finite numbers"):
            write(path, content)
    with pytest.raises(FlextuneError, match=rf"{path}: rows\[1\]\.kl = {value}"):
        write_jsonl(path, [{"kl": 1.0}, content])
    with pytest.raises(FlextuneError, match=rf"file\.partial\.json: rows\[1\]\.kl = {value}"):
        Journal(path).append([{"kl": 1.0}, content])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: {c: 1,\n c: 2}\n", "line 3: not valid YAML (the key 'c' appears twice)"),
        ("a: 2020-13-45\n", "cannot be read (month must be in 1..12)"),
        (f"a: {'[' * 5000}\n", "cannot be read (maximum recursion depth exceeded"),
    ],
)
def test_yaml_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(UsageError) as error:
        read_yaml(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_json_that_python_cannot_read_is_named(tmp_path):
    path = tmp_path / "scores.json"
    for content in ("[" * 200_000, "1" * 5000):
        path.write_text(content)
        with pytest.raises(FlextuneError, match=r"scores\.json: cannot be read"):
            read_json(path)
