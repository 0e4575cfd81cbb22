import itertools
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, Phi3Config, Phi3ForCausalLM

from flextune.errors import FlextuneError, UsageError
from flextune.generation import transformers_backend
from flextune.generation.backend import Request, check_window, end_tokens
from flextune.generation.choice import LOOK, Choice
from flextune.generation.settings import Decoding
from flextune.generation.transformers_backend import TransformersBackend
from flextune.models import ModelSource
from flextune.tasks import load_benchmark, truncate

SAMPLING = Decoding(kind="sampling", temperature=0.8, top_p=0.95)


@pytest.fixture(scope="module")
def backend(tiny_model):
    return TransformersBackend(ModelSource(tiny_model, {}), dtype="float32")


@pytest.fixture(scope="module")
def prompts():
    return [problem.prompt for problem in load_benchmark("basics-python", limit=7).problems]


def written(backend, prompts, decoding=None, limit=24, stops=(), seed=0):
    stops = stops or [()] * len(prompts)
    requests = [Request(p, tuple(s), seed + i) for i, (p, s) in enumerate(zip(prompts, stops, strict=True))]
    return backend.generate(requests, decoding or Decoding(), limit)


def generated(folder, prompts, limit=24, **options):
    """What transformers writes, one prompt at a time, with its own attention and cache."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tokenizer = transformers_backend.load_model(ModelSource(folder, {}))[1]
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=limit, do_sample=False, **options)
        found.append(tokenizer.decode(out[0], skip_special_tokens=True)[len(prompt) :])
    return found


def test_a_batch_writes_what_generate_writes_one_by_one(backend, tiny_model, prompts):
    several = prompts + prompts[:2]
    texts = written(backend, several)
    assert [text.text for text in texts] == generated(tiny_model, several)
    assert all((text.finish_reason, text.tokens) == ("length", 24) for text in texts)


@pytest.mark.parametrize("benchmark", ["humaneval", "humaneval-java"])
def test_thirty_problems_are_completed_as_by_generate(backend, tiny_model, full_data, benchmark):
    fitting = (p for p in load_benchmark(benchmark, full_data).problems if backend.count(Request(p.prompt)) < 1000)
    problems = list(itertools.islice(fitting, 30))
    assert len(problems) == 30
    texts = written(backend, [p.prompt for p in problems], limit=12, stops=[p.stop for p in problems])
    whole = generated(tiny_model, [problem.prompt for problem in problems], limit=12)
    assert [truncate(text.text, p.stop) for text, p in zip(texts, problems, strict=True)] == [
        truncate(text, p.stop) for text, p in zip(whole, problems, strict=True)
    ]


def test_prompts_with_a_common_beginning_and_of_one_token(backend, tiny_model, prompts):
    several = [prompts[0] + more for more in ("", "x", "x = 1", "\n    return 2\n")] + [prompts[0][:1]]
    assert [text.text for text in written(backend, several)] == generated(tiny_model, several)
    several = several[:4]
    assert [text.text for text in written(backend, several)] == generated(tiny_model, several)


def test_what_prompts_have_in_common_is_read_once(backend, prompts, monkeypatch):
    read = []
    forward = TransformersBackend._forward

    def counting(self, slots, tokens, *arguments):
        read.append(sum(map(len, tokens)))
        return forward(self, slots, tokens, *arguments)

    monkeypatch.setattr(TransformersBackend, "_forward", counting)
    length = backend.count(Request(prompts[0]))
    written(backend, [prompts[0]] * 9, SAMPLING, limit=1)
    assert read == [length - 1, 9]
    read.clear()
    written(backend, [prompts[0] + more for more in ("a b", "c d", "e f")], limit=1)
    assert length - 2 <= read[0] <= length
    assert sum(read[1:]) < 3 * 8


@pytest.mark.parametrize("concurrency", [1, 3, 5])
def test_where_a_text_ends_the_next_begins(backend, prompts, monkeypatch, concurrency):
    free = [text.text for text in written(backend, prompts)]
    stops = [(text[2 + i : 4 + i],) for i, text in enumerate(free)]  # each text at another length
    wholes = [written(backend, prompts + prompts, how, stops=stops + stops) for how in (Decoding(), SAMPLING)]
    steps, step = [], TransformersBackend.step
    monkeypatch.setattr(TransformersBackend, "step", lambda *a: steps.append(len(a[2])) or step(*a))
    monkeypatch.setattr(backend, "concurrency", concurrency)
    for how, whole in zip((Decoding(), SAMPLING), wholes, strict=True):
        assert written(backend, prompts + prompts, how, stops=stops + stops) == whole
    assert max(steps) == concurrency


def test_rows_are_read_in_parts_where_they_are_many(backend, prompts, monkeypatch):
    whole = written(backend, prompts)
    monkeypatch.setattr(transformers_backend, "PREFILL_TOKENS", 50)
    assert written(backend, prompts) == whole


def test_a_window_of_attention_slides(tiny_model, tmp_path, prompts):
    torch.manual_seed(1)
    config = MistralConfig(
        vocab_size=602,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=16,
        max_position_embeddings=512,
    )
    MistralForCausalLM(config).save_pretrained(tmp_path)
    for file in tiny_model.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    backend = TransformersBackend(ModelSource(tmp_path, {}), dtype="float32")
    assert [text.text for text in written(backend, prompts)] == generated(tmp_path, prompts)


@pytest.mark.parametrize(
    "decoding", [Decoding(), SAMPLING, Decoding(kind="beam", beams=3)], ids=["greedy", "sampling", "beam"]
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_refused_with_where_they_begin(tiny_model, prompts, decoding, value):
    backend = TransformersBackend(ModelSource(tiny_model, {}), dtype="float32")
    layer = backend.model.model.layers[1].mlp.down_proj
    hook = layer.register_forward_hook(lambda module, arguments, output: output * value)
    requests = [Request(prompts[0], name="HumanEval/7")]
    begins = r"beginning with the layer model\.layers\.1\.mlp\.down_proj;"
    with pytest.raises(FlextuneError, match=rf"^HumanEval/7: the model's logits .* {begins}"):
        backend.generate(requests, decoding, 4)
    hook.remove()
    with torch.no_grad():
        layer.weight[0, 0] = value
    with pytest.raises(FlextuneError, match=r"beginning with the weight model\.layers\.1\.mlp\.down_proj\.weight; try"):
        backend.generate(requests, decoding, 4)


def test_the_row_that_is_no_number_is_the_one_that_is_named(tiny_model, prompts):
    backend = TransformersBackend(ModelSource(tiny_model, {}), dtype="float32")
    unknown = backend.tokenizer("@")["input_ids"][0]
    with torch.no_grad():
        backend.model.model.embed_tokens.weight[unknown] = torch.nan
    requests = [Request(f"{prompt}{'@' * (n == 2)}", name=f"p/{n}") for n, prompt in enumerate(prompts)]
    with pytest.raises(FlextuneError, match=r"^p/2: .* beginning with the weight model\.embed_tokens\.weight"):
        backend.generate(requests, Decoding(), 4)


def test_long_rope_ends_where_neighbours_would_change_a_text(tiny_model, tmp_path):
    """Within its original context Phi-3's texts are those of `generate`; beyond it they are refused."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    factors = {"short_factor": [1.0] * 4, "long_factor": [8.0, 4.0, 2.0, 1.0]}
    config = Phi3Config(
        vocab_size=600,
        num_key_value_heads=2,
        max_position_embeddings=512,
        original_max_position_embeddings=64,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, **factors},
        pad_token_id=1,
        **sizes,
    )
    Phi3ForCausalLM(config).save_pretrained(tmp_path)
    for file in tiny_model.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    backend = TransformersBackend(ModelSource(tmp_path, {}), dtype="float32")
    texts = ["def f(x):\n    return x\n", "a = 1\n"]
    assert [text.text for text in written(backend, texts, limit=8)] == generated(tmp_path, texts, limit=8)
    with pytest.raises(FlextuneError, match=r"exceed the model's context of 64"):
        written(backend, texts, limit=60)


def test_the_base_is_the_base_after_any_adapter(tiny_model, tmp_path, prompts):
    """PEFT leaves trained heads and biases in the model when it unloads an adapter."""
    from peft import LoraConfig, get_peft_model

    backend = TransformersBackend(ModelSource(tiny_model, {}), dtype="float32")
    base = written(backend, prompts)
    for number, more in enumerate(({"modules_to_save": ["lm_head"]}, {"init_lora_weights": "pissa"}, {})):
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["up_proj"], **({"init_lora_weights": False} | more))
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                torch.nn.init.normal_(parameter)
        model.save_pretrained(tmp_path / str(number))
        backend.use(tmp_path / str(number))
        tuned = written(backend, prompts)
        backend.use(None)
        assert written(backend, prompts) == base
        assert tuned != base or "init_lora_weights" in more


@pytest.mark.parametrize(
    ("configs", "ends"),
    [
        (({"eos_token_id": 3}, {"eos_token_id": 5}), {3}),
        (({"eos_token_id": None}, {"eos_token_id": [5, 7]}), {5, 7}),
        (({}, {}), set()),
    ],
)
def test_ends_are_those_of_the_first_configuration_that_names_any(configs, ends):
    assert end_tokens(*(SimpleNamespace(**config) for config in configs)) == ends


def test_an_end_that_is_no_number_is_refused():
    with pytest.raises(FlextuneError, match=r"eos_token_id is '<end>': expected a token's number"):
        end_tokens(SimpleNamespace(eos_token_id="<end>"))


def test_a_prompt_that_does_not_fit_is_named(backend, prompts):
    requests = [Request(prompts[0], name="p/0"), Request(prompts[0] * 9, name="p/1")]
    with pytest.raises(FlextuneError, match=r"^p/1: its \d+ tokens and generation.max_new_tokens = 900 exceed"):
        backend.generate(requests, Decoding(), 900)


def test_tokens_beyond_the_embedding_are_refused_in_generation_too(tiny_model, prompts, monkeypatch):
    backend = TransformersBackend(ModelSource(tiny_model, {}), dtype="float32")
    backend.tokenizer.add_tokens(["<new>"])
    with pytest.raises(
        FlextuneError, match=r"p/1: the tokenizer gives '<new>' the id 600, and the model's .* 600 rows"
    ):
        backend.generate([Request("a"), Request("a <new>", name="p/1")], Decoding(), 4)
    backend.tokenizer.chat_template = "{{ messages[0].content }}<new>"
    with pytest.raises(FlextuneError, match=r"p/2: the tokenizer gives '<new>'"):
        backend.generate([Request("a", chat=True, name="p/2")], Decoding(), 4)


def test_a_model_with_another_kind_of_state_is_refused(tiny_model, tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    MambaForCausalLM(MambaConfig(vocab_size=602, hidden_size=16, num_hidden_layers=1)).save_pretrained(tmp_path)
    for file in tiny_model.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    with pytest.raises(FlextuneError, match=r"cannot keep the state of MambaForCausalLM.*; use backend: vllm"):
        TransformersBackend(ModelSource(tmp_path, {}))


def test_a_row_ends_at_its_own_stop_string(backend, prompts):
    free = written(backend, prompts[:3])
    stop = free[0].text[3:5]
    stopped = written(backend, prompts[:3], stops=[(stop,), (), ()])
    assert stopped[0].finish_reason == "stop"
    assert stopped[0].tokens < free[0].tokens
    assert free[0].text.startswith(stopped[0].text)
    assert stop in stopped[0].text
    assert stopped[1:] == free[1:]
    assert free[1].finish_reason == "length"


def test_a_row_ends_at_the_end_of_text(backend, prompts, monkeypatch):
    free = written(backend, prompts[:1])[0]
    token = backend.tokenizer(free.text, add_special_tokens=False)["input_ids"][0]
    monkeypatch.setattr(backend.tokens, "ends", {token})
    ended = written(backend, prompts[:1])[0]
    assert (ended.text, ended.finish_reason, ended.tokens) == ("", "stop", 0)


def test_a_draw_depends_on_its_seed_and_not_on_its_batch(backend, prompts):
    whole = written(backend, prompts, SAMPLING)
    alone = [written(backend, [prompt], SAMPLING, seed=i)[0] for i, prompt in enumerate(prompts)]
    assert whole == alone
    other = written(backend, prompts, SAMPLING, seed=100)
    assert sum(a.text != b.text for a, b in zip(whole, other, strict=True)) > 4


def drawn(logits, count=4000, **settings):
    decoding = Decoding(kind="sampling", **settings)
    choice = Choice(decoding, list(range(count)))
    tokens = torch.tensor(choice(logits.expand(count, -1), range(count)))
    return torch.bincount(tokens, minlength=logits.shape[-1]) / count


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.08, 0.3, 0.6, 0.02]),
        # the smallest set with 0.85 of the probability is the first two
        ({"top_p": 0.85}, [0, 1 / 3, 2 / 3, 0]),
        ({"top_p": 0.55}, [0, 0, 1, 0]),
        ({"top_k": 3}, [0.08 / 0.98, 0.3 / 0.98, 0.6 / 0.98, 0]),
        # top-k comes first: of 0.6 and 0.3 alone, 0.6 are two thirds
        ({"top_k": 2, "top_p": 0.65}, [0, 0, 1, 0]),
        ({"temperature": 0.5}, [0.0064 / 0.4568, 0.09 / 0.4568, 0.36 / 0.4568, 0.0004 / 0.4568]),
    ],
)
def test_draws_follow_the_distribution(settings, expected):
    logits = torch.log(torch.tensor([0.08, 0.3, 0.6, 0.02]))
    torch.testing.assert_close(drawn(logits, **settings), torch.tensor(expected).float(), rtol=0, atol=0.03)


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"top_k": 2 * LOOK}])
def test_a_flat_distribution_is_drawn_from_beyond_the_likeliest(settings):
    torch.manual_seed(0)
    logits = torch.randn(1000) / 10
    found = drawn(logits, count=20000, **settings)
    kept = torch.zeros(1000, dtype=torch.bool)
    ranked = logits.softmax(0).sort(descending=True)
    count = settings.get("top_k") or int((ranked.values.cumsum(0) < settings.get("top_p", 1.0)).sum()) + 1
    kept[ranked.indices[:count]] = True
    assert not found[~kept].any()
    exact = torch.where(kept, logits.softmax(0), 0)
    assert (found - exact / exact.sum()).abs().sum() < 0.2  # 20,000 draws from a thousand: 0.18 expected


def test_a_prompt_that_does_not_fit_is_refused(backend, prompts):
    with pytest.raises(FlextuneError, match=r"exceed the model's context of 1024; lower generation.max_new_tokens"):
        written(backend, prompts, limit=1000)
    with pytest.raises(
        FlextuneError, match=r"its 1024 tokens do not fit into .* 1024; leave the problem out \(evaluat"
    ):
        check_window(1024, 1, 1024)  # where fewer new tokens would not help


def test_where_memory_does_not_suffice_half_as_many_go_on(backend, prompts, monkeypatch, capsys):
    expected = written(backend, prompts)
    inner, sizes = TransformersBackend._generate, []

    def small(self, requests, prompts, decoding, limit, rows):
        sizes.append(rows)
        if rows > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return inner(self, requests, prompts, decoding, limit, rows)

    monkeypatch.setattr(backend, "concurrency", 64)
    monkeypatch.setattr(TransformersBackend, "_generate", small)
    assert written(backend, prompts) == expected
    assert sizes == [7, 3, 1]
    assert "Memory does not suffice for 7 texts at a time: going on with 3" in capsys.readouterr().err
    assert written(backend, prompts) == expected
    assert sizes == [7, 3, 1, 1]

    def never(self, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TransformersBackend, "_generate", never)
    with pytest.raises(FlextuneError, match=r"memory does not suffice for one text of \d+ tokens: lower generation"):
        written(backend, prompts)


def test_the_memory_is_said_before_it_is_taken(tiny_model, prompts, capsys):
    backend = TransformersBackend(ModelSource(tiny_model, {}), dtype="float32")
    longest = max(backend.count(Request(prompt)) for prompt in prompts)
    written(backend, prompts, limit=24)
    # two layers, two key heads of 8, keys and values, 4 bytes
    gib = 7 * (longest + 24) * 2 * 2 * 2 * 8 * 4 / 2**30
    assert (
        f"Keys and values: {gib:.2f} GiB at most, for 7 texts of up to {longest + 24} tokens" in capsys.readouterr().err
    )
    written(backend, prompts[:2], limit=24)
    assert "Keys and values" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def adapters(tiny_model, tmp_path_factory):
    from peft import LoraConfig, get_peft_model

    folders = []
    for number in range(2):
        torch.manual_seed(number)
        base = AutoModelForCausalLM.from_pretrained(tiny_model)
        config = LoraConfig(r=4, target_modules=["up_proj"], init_lora_weights=False)
        folders.append(tmp_path_factory.mktemp(f"adapter-{number}"))
        get_peft_model(base, config).save_pretrained(folders[-1])
    return folders


def test_one_base_with_one_adapter_after_the_other(tiny_model, adapters, prompts, monkeypatch):
    loaded = []
    load = transformers_backend.load_model
    monkeypatch.setattr(transformers_backend, "load_model", lambda *a: loaded.append(a) or load(*a))
    one = TransformersBackend(ModelSource(tiny_model, {}), dtype="float32")

    def fresh(adapter, merged=False):
        backend = TransformersBackend(ModelSource(tiny_model, {}), dtype="float32")
        backend.use(adapter, merged)
        return written(backend, prompts)

    expected = {None: fresh(None), 0: fresh(adapters[0]), 1: fresh(adapters[1])}
    assert fresh(adapters[0], merged=True) == expected[0]
    assert len({tuple(texts) for texts in expected.values()}) == 3
    loaded.clear()
    for which in (0, None, 1, 0, 0, None):
        one.use(None if which is None else adapters[which])
        assert written(one, prompts) == expected[which]
    assert not loaded
    one.use(adapters[1], merged=True)
    assert written(one, prompts) == expected[1]
    assert not loaded
    one.use(None)
    assert written(one, prompts) == expected[None]
    assert len(loaded) == 1


def test_a_merged_adapter_is_added_in_float32_and_cast_once(tiny_model, adapters):
    half = TransformersBackend(ModelSource(tiny_model, {}), dtype="bfloat16")
    half.use(adapters[0], merged=True)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    beside = TransformersBackend(ModelSource(tiny_model, {}), dtype="float32")
    beside.use(adapters[0])
    frequencies = half.model.model.rotary_emb.inv_freq
    assert half.model.dtype == torch.bfloat16
    torch.testing.assert_close(frequencies, base.model.rotary_emb.inv_freq, rtol=0, atol=0)
    up = "model.layers.0.mlp.up_proj"
    layer = beside.model.get_submodule(f"base_model.model.{up}")
    exact = layer.base_layer.weight.bfloat16().float() + layer.get_delta_weight("default")
    torch.testing.assert_close(half.model.get_submodule(up).weight, exact.bfloat16(), rtol=0, atol=0)


def test_an_adapter_for_another_model_is_refused_and_the_base_goes_on(backend, adapters, tmp_path, prompts):
    expected = written(backend, prompts)
    for file in adapters[0].iterdir():
        shutil.copy(file, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "r": 3}))
    with pytest.raises(FlextuneError, match=r"the adapter .* does not fit the model: .*"):
        backend.use(tmp_path)
    assert written(backend, prompts) == expected


def test_a_folder_without_a_tokenizer_is_refused(tiny_model, tmp_path):
    for file in tiny_model.iterdir():
        if not file.name.startswith("tokenizer"):
            shutil.copy(file, tmp_path)
    with pytest.raises(FlextuneError, match=r"the model folder .* has no tokenizer that can be loaded \(.*\)"):
        TransformersBackend(ModelSource(tmp_path, {}))


TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>"


def test_a_chat_goes_through_the_template(backend, tiny_model, prompts, monkeypatch):
    with pytest.raises(UsageError, match=r"generation.chat: the model's tokenizer has no chat template; leave it out"):
        backend.count(Request("hello", chat=True))
    monkeypatch.setattr(backend.tokenizer, "chat_template", TEMPLATE)
    asked = backend.generate([Request(prompts[0], chat=True)], Decoding(), 12)[0]
    plain = backend.generate([Request(f"<user>{prompts[0]}\n<assistant>")], Decoding(), 12)[0]
    assert asked == plain
