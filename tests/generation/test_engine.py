"""Engine: the same texts from one process as from several, a model that is loaded once, and let go of."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace

import pytest
from alive import alive
from fake_backend import FakeBackend, KilledError

from flextune.errors import FlextuneError
from flextune.files import read_jsonl
from flextune.generation import engine as engine_module
from flextune.generation import transformers_backend
from flextune.generation.backend import Request
from flextune.generation.engine import Engine
from flextune.generation.generate import generate
from flextune.generation.settings import Decoding, Generation
from flextune.models import find_model
from flextune.tasks import load_benchmark

SAMPLING = Decoding(kind="sampling", samples=3)
SETTINGS = Generation(max_new_tokens=8, batch_size=4)
BASE = (None, False)


@pytest.fixture(scope="module")
def source(tiny_model):
    return find_model(str(tiny_model))


@pytest.fixture(scope="module")
def problems():
    return load_benchmark("basics-python", limit=4).problems


@pytest.fixture
def fake(monkeypatch):
    fake = FakeBackend()
    monkeypatch.setattr(engine_module, "load", fake.load)
    return fake


def several(source):
    return Engine(source, replace(SETTINGS, workers=2), "float32")


@pytest.fixture(scope="module")
def by_one(source, problems, tmp_path_factory):
    """What one process writes."""
    path = tmp_path_factory.mktemp("one") / "c.jsonl"
    generate(Engine(source, SETTINGS, "float32"), problems, path, decoding=SAMPLING)
    return path.read_bytes()


# One process


def test_nothing_is_loaded_before_it_is_needed(fake, source):
    engine = Engine(source, SETTINGS)
    engine.about(BASE)
    assert fake.loads == 0
    assert engine.count([Request("a"), Request("bcd")]) == [1, 3]
    list(engine.write([[Request("a")]], BASE, SAMPLING, 8))
    assert fake.loads == 1


def test_batches_come_with_their_numbers_one_by_one(fake, source, tmp_path):
    fake.dies_at = 2
    written = Engine(source, SETTINGS).write([[Request(name)] for name in "abc"], (tmp_path, True), SAMPLING, 8)
    assert [next(written)[0], next(written)[0]] == [0, 1]
    with pytest.raises(KilledError):
        next(written)
    assert fake.used == [(tmp_path, True)]


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["up_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder)
    return folder


def test_the_base_is_loaded_once_for_all_that_stands_beside_it(source, problems, adapter, tmp_path, monkeypatch):
    loads = []
    load = transformers_backend.load_model
    monkeypatch.setattr(transformers_backend, "load_model", lambda *args: loads.append(args) or load(*args))
    engine = Engine(source, SETTINGS, "float32")

    def written(*variant):
        path = tmp_path / f"{len(loads)}-{variant}.jsonl".replace("/", "-")
        generate(engine, problems, path, decoding=Decoding(), variant=variant)
        return path.read_bytes()

    base, unmerged = written(None, False), written(adapter, False)
    assert len(loads) == 1
    merged = written(adapter, True)
    assert len(loads) == 1
    assert base != unmerged == merged


def test_what_is_let_go_of_is_loaded_again(source, problems):
    engine = Engine(source, SETTINGS, "float32")
    requests = [Request(problems[0].prompt)]
    once = list(engine.write([requests], BASE, Decoding(), 8))
    model = weakref.ref(engine._loaded().model)
    engine.release()
    gc.collect()
    assert model() is None
    assert list(engine.write([requests], BASE, Decoding(), 8)) == once


def test_a_backend_is_closed_once_when_it_is_let_go_of(fake, source):
    engine = Engine(source, SETTINGS)
    engine.release()
    engine.count([Request("a")])
    engine.release()
    engine.release()
    assert (fake.loads, fake.closes) == (1, 1)


# Several processes


@pytest.mark.slow
def test_two_processes_write_what_one_writes(source, problems, by_one, adapter, tmp_path):
    engine = several(source)
    generate(engine, problems, tmp_path / "two.jsonl", decoding=SAMPLING)
    assert (tmp_path / "two.jsonl").read_bytes() == by_one
    assert engine._backend is None  # not one of them is this
    processes = list(engine._pool._processes.values())
    assert len(processes) == 2
    generate(engine, problems, tmp_path / "two-tuned.jsonl", decoding=SAMPLING, variant=(adapter, False))
    assert (tmp_path / "two-tuned.jsonl").read_bytes() != by_one
    assert list(engine._pool._processes.values()) == processes  # they stay for the next variant
    engine.release()
    assert not any(process.is_alive() for process in processes)


@pytest.mark.slow
def test_what_a_killed_process_leaves_is_kept(source, problems, by_one, tmp_path, monkeypatch):
    engine = several(source)
    write = engine.write

    def killing(*args):
        for number, texts in write(*args):
            yield number, texts
            for process in list(engine._pool._processes.values() if engine._pool else ()):
                process.kill()

    many = replace(SAMPLING, samples=40)  # more than can be done before the kill
    monkeypatch.setattr(engine, "write", killing)
    with pytest.raises(
        FlextuneError, match=r"^a process that writes completions was killed, .* lower generation.workers"
    ):
        generate(engine, problems, tmp_path / "c.jsonl", decoding=many)
    left = list(read_jsonl(tmp_path / "c.partial.jsonl"))
    assert len(left) % 4 == 0
    assert 4 <= len(left) < 160
    assert not (tmp_path / "c.jsonl").exists()
    monkeypatch.undo()
    generate(Engine(source, SETTINGS, "float32"), problems, tmp_path / "c.jsonl", decoding=many)
    rows = list(read_jsonl(tmp_path / "c.jsonl"))
    assert len(rows) == 160
    first = [row for row in rows if row["sample"] < 3]
    assert first == [json.loads(line) for line in by_one.splitlines()]


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_loads_is_one_sentence(source):
    engine = several(source)

    def kill():
        while engine._pool is None or not engine._pool._processes:
            time.sleep(0.01)
        for process in list(engine._pool._processes.values()):
            os.kill(process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(FlextuneError, match="a process that writes completions was killed"):
        engine.count([Request("a")])
    killer.join()


SCRIPT = """
import os, sys, time
from pathlib import Path
from flextune.generation.engine import Engine
from flextune.generation.settings import Generation
from flextune.models import find_model
if __name__ == "__main__":
    engine = Engine(find_model(sys.argv[1]), Generation(workers=2), "float32")
    Path(sys.argv[2]).write_text(str(engine._processes().submit(os.getpid).result()))
    time.sleep(60)
"""


def test_a_killed_process_takes_those_along_that_write_for_it(source, tmp_path):
    script, told = tmp_path / "script.py", tmp_path / "pid"
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, script, source.path, told])
    deadline = time.monotonic() + 60
    while not (told.exists() and told.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    child = told.read_text()
    assert alive(child)
    parent.kill()
    parent.wait()
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)


@pytest.mark.slow
def test_what_is_wrong_with_the_model_is_said_by_any_process(source, tmp_path):
    folder = shutil.copytree(source.path, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    engine = several(find_model(str(folder)))
    with pytest.raises(FlextuneError, match=f"{weights} cannot be read"):
        engine.count([Request("a")])
    engine.release()
