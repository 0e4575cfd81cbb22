import pytest
import torch

from flextune.errors import FlextuneError
from flextune.files import read_jsonl
from flextune.generation.generate import generate
from flextune.generation.settings import Decoding, Generation
from flextune.generation.transformers_backend import Text, TransformersBackend, sample_seed
from flextune.models import find_model
from flextune.tasks import Problem, load_benchmark

SAMPLING = Decoding(kind="sampling", temperature=0.8, top_p=0.95, samples=3)


@pytest.fixture(scope="module")
def backend(tiny_model):
    return TransformersBackend(find_model(str(tiny_model)), dtype="float32")


@pytest.fixture(scope="module")
def prompts():
    return [problem.prompt for problem in load_benchmark("basics-python", limit=7).problems]


def written(backend, prompts, stops, decoding=None, seeds=None, limit=24):
    decoding = decoding or Decoding()
    return backend.generate(prompts, stops, seeds or [0] * len(prompts), decoding, limit)


def test_a_batch_writes_what_generate_writes_one_by_one(backend, prompts):
    texts = written(backend, prompts, [()] * len(prompts))
    for prompt, text in zip(prompts, texts, strict=True):
        ids = backend.tokenizer(prompt, return_tensors="pt")
        out = backend.model.generate(**ids, max_new_tokens=24, do_sample=False)
        expected = backend.tokenizer.decode(out[0], skip_special_tokens=True)[len(prompt) :]
        assert text.text == expected


def test_a_row_ends_at_its_own_stop_string(backend, prompts):
    free = written(backend, prompts[:2], [(), ()])
    stop = free[0].text[3:5]
    stopped = written(backend, prompts[:2], [(stop,), ()])
    assert stopped[0].finish_reason == "stop"
    assert stopped[0].tokens < free[0].tokens
    assert free[0].text.startswith(stopped[0].text)
    assert stop in stopped[0].text
    assert stopped[1] == free[1]
    assert free[1].finish_reason == "length"


def test_a_row_ends_at_the_end_of_text(backend, prompts, monkeypatch):
    free = written(backend, prompts[:1], [()])[0]
    token = backend.tokenizer(free.text, add_special_tokens=False)["input_ids"][0]
    monkeypatch.setattr(backend, "_ends", {token})
    ended = written(backend, prompts[:1], [()])[0]
    assert (ended.text, ended.finish_reason, ended.tokens) == ("", "stop", 0)


def test_a_draw_depends_on_its_seed_and_not_on_its_batch(backend, prompts):
    seeds = [sample_seed(0, prompt, 0) for prompt in prompts]
    whole = written(backend, prompts, [()] * 7, SAMPLING, seeds)
    alone = [written(backend, [p], [()], SAMPLING, [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    assert whole == alone
    other = written(backend, prompts, [()] * 7, SAMPLING, [seed + 1 for seed in seeds])
    assert sum(a.text != b.text for a, b in zip(whole, other, strict=True)) > 4


def test_draws_follow_the_distribution():
    from flextune.generation.transformers_backend import _Choice

    logits = torch.log(torch.tensor([0.6, 0.3, 0.08, 0.02])).expand(4000, -1)
    choice = _Choice(Decoding(kind="sampling", top_p=0.85), list(range(4000)))
    counts = torch.bincount(choice(logits, range(4000)), minlength=4) / 4000
    # the smallest set with 0.85 of the probability is the first two
    torch.testing.assert_close(counts, torch.tensor([2 / 3, 1 / 3, 0, 0]), rtol=0, atol=0.03)


def test_a_prompt_that_does_not_fit_is_refused(backend, prompts):
    with pytest.raises(FlextuneError, match=r"exceed the model's context of 1024; lower generation.max_new_tokens"):
        written(backend, prompts, [()] * 7, limit=1000)


class KilledError(Exception):
    pass


def test_an_interrupted_stage_repeats_no_batch(backend, tmp_path):
    problems = load_benchmark("basics-python", limit=5).problems
    settings = {"decoding": SAMPLING, "generation": Generation(max_new_tokens=8, batch_size=4), "seed": 3}
    generate(lambda: backend, problems, tmp_path / "whole.jsonl", **settings)

    class Dying:
        calls = 0
        prompt_tokens = backend.prompt_tokens

        def generate(self, *args):
            self.calls += 1
            if self.calls == 3:
                raise KilledError
            return backend.generate(*args)

    with pytest.raises(KilledError):
        generate(Dying, problems, tmp_path / "parts.jsonl", **settings)
    assert not (tmp_path / "parts.jsonl").exists()
    assert len((tmp_path / "parts.partial.jsonl").read_text().splitlines()) == 8
    generate(lambda: backend, problems, tmp_path / "parts.jsonl", **settings)
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "parts.partial.jsonl").exists()


def test_completions_end_before_the_stop_string(tmp_path):
    class Wordy:
        def prompt_tokens(self, prompt):
            return 1

        def generate(self, prompts, stops, seeds, decoding, limit):
            return [Text("    return 1\ndef main():", "stop", 9) for _ in prompts]

    problems = [Problem("t/0", "python", "def f():\n", "", ("\ndef",))]
    generate(Wordy, problems, tmp_path / "c.jsonl", decoding=Decoding(), generation=Generation())
    assert [row["completion"] for row in read_jsonl(tmp_path / "c.jsonl")] == ["    return 1"]


def test_an_adapter_that_is_none_and_one_for_another_model(tiny_model, tmp_path):
    source = find_model(str(tiny_model))
    with pytest.raises(FlextuneError, match="is neither a PEFT adapter nor a run"):
        TransformersBackend(source, adapter=tmp_path)


def test_merged_and_unmerged_write_the_same_in_float32(tiny_model, tmp_path, prompts):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["up_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path)
    source = find_model(str(tiny_model))
    texts = [
        written(TransformersBackend(source, *how, dtype="float32"), prompts, [()] * 7)
        for how in ((), (tmp_path, False), (tmp_path, True))
    ]
    assert texts[1] == texts[2]
    assert texts[0] != texts[1]
    half = TransformersBackend(source, tmp_path, True, dtype="bfloat16").model
    frequencies = half.model.rotary_emb.inv_freq
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(frequencies, base.model.rotary_emb.inv_freq, rtol=0, atol=0)
    up = "model.layers.0.mlp.up_proj"
    layer = model.get_submodule(f"base_model.model.{up}")
    exact = layer.base_layer.weight.bfloat16().float() + layer.get_delta_weight("default")
    torch.testing.assert_close(half.get_submodule(up).weight, exact.bfloat16(), rtol=0, atol=0)
