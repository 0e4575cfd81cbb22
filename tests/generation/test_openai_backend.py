"""What a server can do wrong, each as one sentence; that its texts are right is in `tests/conformance`."""

import threading

import pytest
from conformance.generation import CHAT
from conformance.served import HUNG, Served

from flextune.errors import FlextuneError, UsageError
from flextune.generation import openai_backend
from flextune.generation.backend import Request
from flextune.generation.openai_backend import OpenAIBackend
from flextune.generation.settings import Decoding

GREEDY = Decoding()
REQUESTS = [Request(f"def f{n}():\n") for n in range(12)]


@pytest.fixture(scope="module")
def loaded(tiny_model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = CHAT
    return AutoModelForCausalLM.from_pretrained(tiny_model), tokenizer


@pytest.fixture
def served(loaded):
    server = Served(*loaded)
    yield server
    server.close()


@pytest.fixture
def few_retries(monkeypatch):
    monkeypatch.setattr(openai_backend, "RETRIES", 1)


def refused(backend, requests=REQUESTS, decoding=GREEDY, limit=4):
    with pytest.raises(FlextuneError) as error:
        backend.generate(requests, decoding, limit)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_server_that_dies_half_way(served, few_retries):
    served.dies_after = 5
    said = refused(OpenAIBackend("tiny", served.address, concurrency=2))
    assert said.startswith(f"the server {served.address} does not answer (")
    assert said.endswith("finished completions are kept, the same command goes on")
    assert len(served.asked) <= 7  # those that were under way


def test_a_server_that_is_not_there(served, few_retries):
    served.close()
    assert "does not answer" in refused(OpenAIBackend("tiny", served.address))
    assert "(Connection error)" not in refused(OpenAIBackend("tiny", served.address))


def test_the_first_error_waits_for_nobody(served):
    served.holds = threading.Event()
    before = set(threading.enumerate())
    said = refused(OpenAIBackend("tiny", served.address, 2), [REQUESTS[0], Request("a " * 2000), *REQUESTS])
    assert "This model's maximum context length is 1024 tokens. You asked for more." in said
    assert served.answered == 0  # the error was raised while the server still held the first request
    served.holds.set()
    for thread in set(threading.enumerate()) - before:
        if "process_request" not in thread.name:  # the server's own threads wait for more requests
            thread.join(HUNG)
    assert len(served.asked) <= 3


def test_a_model_that_the_server_does_not_have(served):
    said = refused(OpenAIBackend("large", served.address))
    assert said == f"the server {served.address} has no model 'large'; it has tiny"


def test_an_address_without_v1(served):
    address = served.address.removesuffix("/v1")
    assert "generation.server ends in /v1 as a rule" in refused(OpenAIBackend("tiny", address))


def test_an_adapter_is_refused(served, tmp_path):
    backend = OpenAIBackend("tiny", served.address)
    with pytest.raises(UsageError, match=r"serve it there .* and give its name as the model"):
        backend.use(tmp_path)
    backend.use(None)


@pytest.mark.parametrize("kind", ["beam", "beam-sampling"])
def test_beams_are_refused(served, kind):
    with pytest.raises(UsageError, match=f"kind: {kind} needs backend: transformers"):
        OpenAIBackend("tiny", served.address).generate(REQUESTS, Decoding(kind=kind, beams=2), 4)
    assert served.asked == []


def test_requests_say_what_they_need_and_no_more(served):
    backend = OpenAIBackend("tiny", served.address)
    backend.generate([Request("a", seed=2**40 + 5)], GREEDY, 3)
    backend.generate([Request("a", ("\nb",), seed=2**40 + 5)], Decoding(kind="sampling", top_k=7), 3)
    asked = {"model": "tiny", "prompt": "a", "max_tokens": 3}
    assert served.asked == [
        {**asked, "temperature": 0.0},
        {**asked, "temperature": 1.0, "top_p": 1.0, "top_k": 7, "stop": ["\nb"], "seed": 5},
    ]


def test_a_model_s_own_settings_are_kept_out_of_vllm(served):
    served.card = {"owned_by": "vllm"}
    OpenAIBackend("tiny", served.address).generate([Request("a", chat=True)], GREEDY, 3)
    (asked,) = served.asked
    assert {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}.items() <= asked.items()


def test_a_prompt_that_vllm_would_cut_short_is_refused(served):
    served.card = {"owned_by": "vllm", "max_model_len": 20}
    size = len(served.tokenizer("ab cd")["input_ids"])
    backend = OpenAIBackend("tiny", served.address)
    assert backend.generate([Request("ab cd")], GREEDY, 20 - size)[0].tokens == 20 - size
    said = refused(backend, [Request("ab cd")], limit=21 - size)
    assert said.startswith(
        f"a prompt: its {size} tokens and generation.max_new_tokens = {21 - size} exceed the model's co"
    )


def test_a_server_that_does_not_count(served):
    served.silent_usage = True
    (text,) = OpenAIBackend("tiny", served.address).generate([Request("a")], GREEDY, 3)
    assert (text.finish_reason, text.tokens) == ("length", 0)


def test_many_at_once_stay_in_order(served):
    requests = [Request(f"{n} = ") for n in range(100)]
    backend = OpenAIBackend("tiny", served.address)
    together = backend.generate(requests, GREEDY, 2)
    alone = [backend.generate([request], GREEDY, 2)[0] for request in requests[:10]]
    assert together[:10] == alone
    assert len({text.text for text in together}) > 1


def test_without_the_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(FlextuneError, match=r"needs the package openai: run `pip install 'flextune\[openai\]'`"):
        OpenAIBackend("tiny", "http://localhost:1/v1")
