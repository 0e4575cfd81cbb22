"""`flextune generate`, killed while it writes, and called again."""

import os
import subprocess
import sys
import time

import pytest

from flextune.files import read_jsonl

SAMPLES = 12


def start(tiny_model, folder, cache):
    """The command, with a cache of its own: what it finds again, it has from the journal."""
    command = [sys.executable, "-m", "flextune", "generate", "--model", tiny_model, "--benchmark", "basics-python"]
    command += ["--limit", 8, "--decoding", "sampling", "--samples", SAMPLES, "--batch-size", 4]
    command += ["--max-new-tokens", 24, "--dtype", "float32", "--output", folder]
    settings = {"FLEXTUNE_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
def test_killed_and_called_again_it_ends_with_the_same_bytes(tiny_model, tmp_path):
    undisturbed = start(tiny_model, tmp_path / "whole", tmp_path / "cache-0")
    process = start(tiny_model, tmp_path / "parts", tmp_path / "cache-1")
    journal = tmp_path / "parts" / "completions.partial.jsonl"
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 4):
        assert process.poll() is None, f"it ended before it had rows:\n{process.communicate()[0].decode()}"
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert not (tmp_path / "parts" / "completions.jsonl").exists()
    before = journal.read_bytes().split(b"\n")[:-1]
    assert 4 < len(before) < 8 * SAMPLES
    again = start(tiny_model, tmp_path / "parts", tmp_path / "cache-2")
    out = again.communicate()[0].decode()
    assert again.returncode == 0, out
    # in the new cache is what was written after the kill, and no more
    (cached,) = (tmp_path / "cache-2" / "completions").glob("*.jsonl")
    assert cached.read_bytes().count(b"\n") - 1 == 8 * SAMPLES - len(before) // 4 * 4
    out = undisturbed.communicate()[0].decode()
    assert undisturbed.returncode == 0, out
    whole = tmp_path / "whole" / "completions.jsonl"
    assert len(list(read_jsonl(whole))) == 8 * SAMPLES
    assert (tmp_path / "parts" / "completions.jsonl").read_bytes() == whole.read_bytes()
    assert not journal.exists()
