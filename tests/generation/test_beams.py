"""Beam search against transformers' own, and, with stop strings, against a slow search written from its definition."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from flextune.generation.backend import Request
from flextune.generation.settings import Decoding
from flextune.generation.transformers_backend import TransformersBackend
from flextune.models import ModelSource
from flextune.tasks import load_benchmark


@pytest.fixture(scope="module")
def backend(tiny_model):
    return TransformersBackend(ModelSource(tiny_model, {}), dtype="float32")


@pytest.fixture(scope="module")
def reference(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")


@pytest.fixture(scope="module")
def prompts():
    return [problem.prompt for problem in load_benchmark("basics-python", limit=4).problems]


def searched(backend, prompts, stops=(), limit=16, **settings):
    decoding = Decoding(kind=settings.pop("kind", "beam"), **settings)
    stops = stops or [()] * len(prompts)
    requests = [Request(p, tuple(s), i) for i, (p, s) in enumerate(zip(prompts, stops, strict=True))]
    return backend.generate(requests, decoding, limit)


@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (4, 0.0), (4, 1.0), (5, 2.0), (3, -1.0)])
def test_without_stop_strings_it_is_that_of_transformers(backend, reference, prompts, beams, penalty, monkeypatch):
    # an end of text that beams run into now and then, unlike the tokenizer's own
    text = searched(backend, prompts, beams=beams)[0].text
    end = backend.tokenizer(text, add_special_tokens=False)["input_ids"][5]
    monkeypatch.setattr(backend.tokens, "ends", {end})
    found = searched(backend, prompts, beams=beams, length_penalty=penalty)
    for prompt, text in zip(prompts, found, strict=True):
        ids = backend.tokenizer(prompt, return_tensors="pt")
        out = reference.generate(
            **ids,
            max_new_tokens=16,
            do_sample=False,
            num_beams=beams,
            length_penalty=penalty,
            early_stopping=False,
            eos_token_id=end,
            pad_token_id=1,
        )
        tokens = out[0, ids["input_ids"].shape[1] :].tolist()
        tokens = tokens[: tokens.index(end)] if end in tokens else tokens
        assert text.text == backend.tokenizer.decode(tokens, skip_special_tokens=True)
        assert text.tokens == len(tokens)
    assert "stop" in {text.finish_reason for text in found}


def slow(model, tokenizer, prompt, stop, beams, penalty, limit):
    """Beam search of one prompt from its definition: no cache, every candidate looked at, in plain Python."""
    ids = tokenizer(prompt)["input_ids"]
    live, ended = [([], 0.0)], []
    for length in range(1, limit + 1):
        candidates = []
        for tokens, score in live:
            with torch.inference_mode():
                logits = model(torch.tensor([[*ids, *tokens]])).logits[0, -1]
            for token, more in enumerate(torch.log_softmax(logits, -1).tolist()):
                candidates.append(([*tokens, token], score + more))
        candidates.sort(key=lambda candidate: -candidate[1])
        live = []
        for rank, (tokens, score) in enumerate(candidates):
            stops = any(string in tokenizer.decode(tokens, skip_special_tokens=True) for string in stop)
            if stops or length == limit:
                if rank < beams:
                    ended.append((score / length**penalty, tokens, stops))
            elif len(live) < beams:
                live.append((tokens, score))
            if len(live) == beams or rank == 40 * beams:
                break
        ended = sorted(ended, key=lambda text: -text[0])[:beams]
        if len(ended) == beams and (not live or live[0][1] / length**penalty <= ended[-1][0]):
            break
    return ended[0]


@pytest.mark.parametrize("penalty", [1.0, 0.0])
def test_with_stop_strings_it_is_the_slow_one(backend, reference, prompts, penalty):
    prompts = prompts[:3]
    free = searched(backend, prompts, beams=4)
    # stop strings that some beams write and others do not, one of them over several tokens
    stops = [(text.text[4:6], text.text[9:13]) for text in free]
    found = searched(backend, prompts, stops, beams=4, length_penalty=penalty)
    for prompt, stop, text in zip(prompts, stops, found, strict=True):
        _, tokens, stopped = slow(reference, backend.tokenizer, prompt, stop, 4, penalty, 16)
        assert (text.text, text.finish_reason == "stop") == (
            backend.tokenizer.decode(tokens, skip_special_tokens=True),
            stopped,
        )
    assert "stop" in {text.finish_reason for text in found}


def test_one_beam_is_greedy(backend, prompts):
    greedy = backend.generate([Request(prompt) for prompt in prompts], Decoding(), 16)
    assert searched(backend, prompts, beams=1) == greedy
    stops = [(text.text[5:8],) for text in greedy]
    requests = [Request(prompt, stop) for prompt, stop in zip(prompts, stops, strict=True)]
    assert searched(backend, prompts, stops, beams=1) == backend.generate(requests, Decoding(), 16)


def test_a_problem_alone_finds_what_it_finds_beside_others(backend, prompts):
    for settings in ({"beams": 3}, {"beams": 3, "kind": "beam-sampling", "temperature": 0.7, "top_p": 0.9}):
        whole = searched(backend, prompts, **settings)
        for number, prompt in enumerate(prompts):
            request = Request(prompt, (), number)
            decoding = Decoding(**{"kind": "beam", **settings})
            assert backend.generate([request], decoding, 16) == [whole[number]]


def test_beam_sampling_draws(backend, prompts):
    """With one beam it is sampling; at a low temperature it is beam search; another seed finds another text."""
    cold = searched(backend, prompts, beams=3, kind="beam-sampling", temperature=1e-3)
    assert [text.text for text in cold] == [text.text for text in searched(backend, prompts, beams=3)]
    warm = [
        backend.generate([Request(prompts[0], (), seed)], Decoding(kind="beam-sampling", beams=3, top_k=50), 8)[0].text
        for seed in range(6)
    ]
    assert len(set(warm)) > 3


def test_beams_of_one_draw_follow_the_distribution(backend, prompts):
    ids = backend.tokenizer(prompts[0], return_tensors="pt")
    with torch.inference_mode():
        backend.model.set_attn_implementation("sdpa")
        logits = backend.model(**ids).logits[0, -1]
        backend.model.set_attn_implementation(transformers_attention())
    decoding = Decoding(kind="beam-sampling", beams=1, top_k=3, temperature=0.2)
    requests = [Request(prompts[0], (), seed) for seed in range(600)]
    found = [text.text for text in backend.generate(requests, decoding, 1)]
    top = (logits / 0.2).topk(3)
    for token, share in zip(top.indices.tolist(), top.values.softmax(0).tolist(), strict=True):
        assert abs(found.count(backend.tokenizer.decode([token])) / 600 - share) < 0.07


def transformers_attention():
    from flextune.generation.slots import ATTENTION

    return ATTENTION
