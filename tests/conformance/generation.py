"""What every generation backend has to do, as cases: each takes a backend and a reference, and asserts.

The reference is a small model with transformers' own `generate`, one prompt at a time. Stop strings are chosen from what
it writes freely, so that each of them does stop the text. A server ends its texts before the stop string and counts
tokens its own way (`RAW` tells), so texts are compared after `truncate`.
"""

import functools
import itertools
from dataclasses import dataclass, replace
from typing import Any

import pytest

from flextune.errors import FlextuneError, UsageError
from flextune.generation.backend import Request
from flextune.generation.settings import Decoding
from flextune.tasks import load_benchmark, truncate

LIMIT = 24
WINDOW = 384
GREEDY = Decoding()
SAMPLING = Decoding(kind="sampling", temperature=0.9, top_p=0.95)
CHAT = (
    "{% for m in messages %}## {{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}## assistant\n{% endif %}"
)
UNICODE = "é€😀"
"""What the model writes after a `~`: bytes, each of them a token."""
ENDS = ("^", "`")
"""After these it ends: with the tokenizer's end of text, and with that which its generation_config.json names."""
SPECIAL = "<|im_end|>"
"""A special token, which no text shows unless it is a stop string; what the model writes after a `$`."""

LAST = "\x02"
"""What it writes after a `@`, before the end."""


def make_model(plain, folder):
    """A model with random weights that vLLM's kernels can run, and the tokenizer of the folder `plain`.

    The weights are large enough for texts of many kinds. Some tokens are followed by others for certain (`UNICODE`,
    `ENDS`); no other token that is a part of a character is ever written.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(plain)
    tokenizer.chat_template = CHAT
    tokenizer.add_special_tokens({"additional_special_tokens": [SPECIAL]})
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=WINDOW,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    alone = [token for token in range(len(tokenizer)) if "�" in tokenizer.decode([token])]
    other_end = tokenizer("\x00")["input_ids"][0]
    chains = [tokenizer("~" + UNICODE)["input_ids"]]
    chains += [[tokenizer(ENDS[0])["input_ids"][0], tokenizer.eos_token_id]]
    chains += [[tokenizer(ENDS[1])["input_ids"][0], other_end]]
    chains += [[tokenizer("@")["input_ids"][0], tokenizer(LAST)["input_ids"][0], tokenizer.eos_token_id]]
    special = tokenizer.convert_tokens_to_ids(SPECIAL)
    chains += [[tokenizer("$")["input_ids"][0], special]]
    assert len(chains[0]) == 1 + len(UNICODE.encode())
    never = [*alone, tokenizer.eos_token_id, tokenizer.pad_token_id, other_end, special]
    never += [tokenizer(LAST)["input_ids"][0]]
    with torch.no_grad():
        head, embedding = model.lm_head.weight, model.model.embed_tokens.weight
        head[never] = 0
        for chain in chains:
            for token, following in itertools.pairwise(chain):
                embedding[token] *= 200
                head[following] += embedding[token] / embedding[token].norm()
    model.generation_config.eos_token_id = other_end  # and not the tokenizer's, with which models are trained to end
    model.save_pretrained(folder)
    return folder


@dataclass
class Reference:
    """The model in transformers, without any of our code."""

    model: Any
    tokenizer: Any

    def __post_init__(self):
        self.prompts = [problem.prompt for problem in load_benchmark("basics-python", limit=6).problems]
        self.free = functools.cache(self._free)

    @classmethod
    def load(cls, folder):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model.generation_config.eos_token_id = [model.generation_config.eos_token_id, tokenizer.eos_token_id]
        return cls(model, tokenizer)

    def _free(self, prompt, limit=LIMIT):
        """What `generate` writes after the prompt; the texts after each of its tokens."""
        ids = self.tokenizer(prompt, return_tensors="pt")
        start = ids["input_ids"].shape[1]
        out = self.model.generate(**ids, max_new_tokens=limit, do_sample=False)[0]
        before = self.tokenizer.decode(out[:start], skip_special_tokens=True)
        return [
            self.tokenizer.decode(out[:end], skip_special_tokens=True)[len(before) :]
            for end in range(start, len(out) + 1)
        ]

    def stops(self, tokens):
        """Prompts, a stop string out of the text after each, and how many tokens it takes to write that.

        The string begins with the second character of a token and ends with the first of its `tokens`-th successor, or
        with the token itself if `tokens` is none.
        """
        found = []
        for prompt in self.prompts:
            texts = self.free(prompt)
            ends = [len(text) for text in texts]
            for at in range(2, len(texts) - tokens - 1):
                start = ends[at] + 1
                end = ends[at + tokens] + 1 if tokens else ends[at + 1]
                stop = texts[-1][start:end]
                if ends[at + 1] > start and stop and texts[-1].find(stop) == start:
                    found.append((prompt, stop, at + 1 + tokens))
                    break
        assert found, "no such stop string in any text"
        return found


def raw(backend):
    """Whether its texts keep their stop strings and its tokens are counted as we do; not so on a server."""
    return hasattr(backend, "tokenizer")


def stopped_at(backend, reference, cases):
    """Each text ends with its stop string, and is that of `generate` before it."""
    texts = backend.generate([Request(prompt, (stop,)) for prompt, stop, _ in cases], GREEDY, LIMIT)
    for (prompt, stop, tokens), text in zip(cases, texts, strict=True):
        free = reference.free(prompt)[-1]
        assert stop in free
        assert truncate(text.text, [stop]) == truncate(free, [stop]) != free
        assert text.finish_reason == "stop"
        assert text.tokens == tokens
        if raw(backend):
            assert text.text == reference.free(prompt)[tokens]


def greedy_is_that_of_generate(backend, reference):
    texts = backend.generate([Request(prompt) for prompt in reference.prompts], GREEDY, LIMIT)
    free = [reference.free(prompt)[-1] for prompt in reference.prompts]
    assert [text.text for text in texts] == free
    assert {(text.finish_reason, text.tokens) for text in texts} == {("length", LIMIT)}
    assert len(set(free)) == len(free)


def stop_begins_within_a_token(backend, reference):
    stopped_at(backend, reference, reference.stops(0))


def stop_over_two_tokens(backend, reference):
    stopped_at(backend, reference, reference.stops(1))


def stop_over_three_tokens(backend, reference):
    stopped_at(backend, reference, reference.stops(2))


def stop_longer_than_any_token(backend, reference):
    longest = max(len(reference.tokenizer.decode([token])) for token in range(len(reference.tokenizer)))
    tokens = next(n for n in range(2, LIMIT) if all(len(stop) > longest for _, stop, _ in reference.stops(n)))
    stopped_at(backend, reference, reference.stops(tokens))


def end_of_text_comes_first(backend, reference):
    prompts = [reference.prompts[0] + end for end in ENDS]
    assert [reference.free(prompt)[-1].strip("\x00") for prompt in prompts] == ["", ""]
    texts = backend.generate([Request(prompt, ("\n",)) for prompt in prompts], GREEDY, LIMIT)
    assert [(text.text, text.finish_reason) for text in texts] == [("", "stop")] * 2
    if raw(backend):
        assert [text.tokens for text in texts] == [0, 0]


def end_of_text_after_a_text(backend, reference):
    prompt = reference.prompts[0] + "@"
    (text,) = backend.generate([Request(prompt)], GREEDY, LIMIT)
    assert (text.text, text.finish_reason) == (LAST, "stop")
    assert text.tokens == 1 or not raw(backend)


def stop_comes_first(backend, reference):
    cases = [(prompt, reference.free(prompt)[1]) for prompt in reference.prompts]
    texts = backend.generate([Request(prompt, (first[0],)) for prompt, first in cases], GREEDY, LIMIT)
    for (_, first), text in zip(cases, texts, strict=True):
        assert (truncate(text.text, [first[0]]), text.finish_reason, text.tokens) == ("", "stop", 1)


def a_special_token_stops_where_it_is_a_stop_string(backend, reference):
    if not raw(backend) and not backend.is_vllm():
        pytest.skip("a server of another kind keeps special tokens to itself")
    prompt = reference.prompts[0] + "$"
    free = reference.free(prompt)[-1]
    assert SPECIAL not in free
    assert free
    plain, stopped = backend.generate([Request(prompt), Request(prompt, (SPECIAL,))], GREEDY, LIMIT)
    assert (plain.text, plain.finish_reason) == (free, "length")
    assert (truncate(stopped.text, [SPECIAL]), stopped.finish_reason, stopped.tokens) == ("", "stop", 1)
    assert stopped.text == SPECIAL or not raw(backend)


def characters_are_cut_by_the_limit(backend, reference):
    prompt = reference.prompts[0] + "~"
    assert reference.free(prompt)[-1].startswith(UNICODE)
    for limit in range(1, len(UNICODE.encode()) + 1):
        (text,) = backend.generate([Request(prompt)], GREEDY, limit)
        assert (text.finish_reason, text.tokens) == ("length", limit)
        assert text.text.rstrip("�") == UNICODE.encode()[:limit].decode(errors="ignore")


def stop_of_characters_over_byte_tokens(backend, reference):
    prompt = reference.prompts[0] + "~"
    after = len(UNICODE.encode())
    stopped_at(backend, reference, [(prompt, stop, n) for stop, n in (("é", 2), ("€", 5), ("é€", 5), ("€😀", after))])


def context_ends_where_it_ends(backend, reference):
    prompt = "a = 1\n" * 60
    size = len(reference.tokenizer(prompt)["input_ids"])
    assert size < WINDOW - 8
    request = Request(prompt, name="s/7")
    limit = WINDOW - size
    (text,) = backend.generate([request], GREEDY, limit)
    assert (text.text, text.tokens) == (reference.free(prompt, limit)[-1], limit)
    with pytest.raises(FlextuneError) as refused:
        backend.generate([Request(reference.prompts[0]), request], GREEDY, limit + 1)
    said = str(refused.value)
    if raw(backend):
        assert said == (
            f"s/7: its {size} tokens and generation.max_new_tokens = {limit + 1} exceed the model's context of "
            f"{WINDOW}; lower generation.max_new_tokens"
        )
    else:
        # the server's words, or ours where it tells how long the context is
        assert f"context length is {WINDOW}" in said or f"exceed the model's context of {WINDOW};" in said
        assert "\n" not in said
    # it goes on after that
    assert (
        backend.generate([Request(reference.prompts[0])], GREEDY, 4)[0].text == reference.free(reference.prompts[0])[4]
    )


def together_as_alone(backend, reference):
    """Different stops and lengths in one call: each text is what it is when asked alone."""
    stops = {prompt: stop for prompt, stop, _ in reference.stops(1)}
    requests = [Request(prompt, (stops[prompt],) if prompt in stops else ()) for prompt in reference.prompts]
    requests[1] = replace(requests[1], stop=())
    requests[2] = replace(requests[2], stop=("no such text", *requests[2].stop))
    requests += [Request(reference.prompts[0] + ENDS[0]), Request("a"), Request(reference.prompts[0] + "~", ("é",))]
    together = backend.generate(requests, GREEDY, LIMIT)
    assert together == [backend.generate([request], GREEDY, LIMIT)[0] for request in requests]
    assert len({text.tokens for text in together}) > 4


def nothing_is_written_for_nobody(backend, reference):
    assert backend.generate([], GREEDY, LIMIT) == []


def draws_follow_their_seeds(backend, reference):
    requests = [Request(prompt, seed=2**56 - 7 + n) for n, prompt in enumerate(reference.prompts)]
    once = backend.generate(requests, SAMPLING, 12)
    assert backend.generate(requests[::-1], SAMPLING, 12)[::-1] == once
    assert [backend.generate([request], SAMPLING, 12)[0] for request in requests[:3]] == once[:3]
    others = backend.generate([replace(request, seed=request.seed + 1) for request in requests], SAMPLING, 12)
    assert all(text.text != other.text for text, other in zip(once, others, strict=True))
    one = [Request(reference.prompts[0], seed=seed) for seed in range(6)]
    assert len({text.text for text in backend.generate(one, SAMPLING, 12)}) == 6


def one_token_to_draw_from_is_greedy(backend, reference):
    requests = [Request(prompt, seed=3) for prompt in reference.prompts]
    free = [reference.free(prompt)[12] for prompt in reference.prompts]
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}):
        texts = backend.generate(requests, Decoding(kind="sampling", **narrow), 12)
        # a server leaves out a character that the limit has cut
        assert [text.text.rstrip("�") for text in texts] == [text.rstrip("�") for text in free]


def chat_is_the_template_around_the_prompt(backend, reference):
    messages = ["Write a list.", "é"]
    rendered = [f"## user\n{message}\n## assistant\n" for message in messages]
    texts = backend.generate([Request(message, chat=True) for message in messages], GREEDY, LIMIT)
    assert [text.text for text in texts] == [reference.free(prompt)[-1] for prompt in rendered]
    mixed = backend.generate([Request(messages[0], chat=True), Request(messages[0])], GREEDY, LIMIT)
    assert [text.text for text in mixed] == [reference.free(rendered[0])[-1], reference.free(messages[0])[-1]]


def prompts_are_counted(backend, reference):
    sizes = [len(reference.tokenizer(prompt)["input_ids"]) for prompt in reference.prompts]
    counts = [backend.count(Request(prompt)) for prompt in reference.prompts]
    if raw(backend):
        assert counts == sizes
        assert backend.count(Request("a", chat=True)) == len(
            reference.tokenizer("## user\na\n## assistant\n")["input_ids"]
        )
    else:
        assert sorted(counts)[0] == counts[sizes.index(min(sizes))]


def no_template_no_chat(backend, monkeypatch):
    if not raw(backend):
        pytest.skip("the server's affair")
    monkeypatch.setattr(backend.tokenizer, "chat_template", None)
    with pytest.raises(UsageError, match=r"generation.chat: the model's tokenizer has no chat template; leave it out"):
        backend.generate([Request("a", chat=True)], GREEDY, 4)


CASES = (
    greedy_is_that_of_generate,
    stop_begins_within_a_token,
    stop_over_two_tokens,
    stop_over_three_tokens,
    stop_longer_than_any_token,
    stop_comes_first,
    end_of_text_comes_first,
    end_of_text_after_a_text,
    a_special_token_stops_where_it_is_a_stop_string,
    characters_are_cut_by_the_limit,
    stop_of_characters_over_byte_tokens,
    context_ends_where_it_ends,
    together_as_alone,
    nothing_is_written_for_nobody,
    draws_follow_their_seeds,
    one_token_to_draw_from_is_greedy,
    chat_is_the_template_around_the_prompt,
    prompts_are_counted,
)
