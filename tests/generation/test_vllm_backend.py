"""What only vLLM has: one engine for several adapters, merged models, and what it refuses."""

import importlib.util
import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from conformance.generation import SAMPLING, make_model

from flextune.adapters import with_adapter
from flextune.errors import FlextuneError, UsageError
from flextune.generation.backend import Request
from flextune.generation.settings import Decoding
from flextune.generation.vllm_backend import VLLMBackend
from flextune.models import find_model, load_model
from flextune.tasks import load_benchmark

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
GREEDY = Decoding()
PROMPTS = [problem.prompt for problem in load_benchmark("basics-python", limit=6).problems]
REQUESTS = [Request(prompt, seed=7 + n) for n, prompt in enumerate(PROMPTS)]
LIMIT = 24


def test_without_vllm(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(FlextuneError, match=r"run `pip install 'flextune\[vllm\]'`, or on a machine without a GPU"):
        VLLMBackend(find_model(str(tiny_model)))


def test_quantized_weights_are_refused(tiny_model):
    with pytest.raises(FlextuneError, match=r"quantization = 'nf4' needs backend = 'transformers'"):
        VLLMBackend(replace(find_model(str(tiny_model)), quantization="nf4"))


@pytest.fixture(scope="module")
def source(tiny_model, tmp_path_factory):
    return find_model(str(make_model(tiny_model, tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def adapters(source, tmp_path_factory):
    """Two of different ranks and modules, and one that vLLM cannot do."""
    from peft import IA3Config, LoraConfig, get_peft_model

    kinds = {
        "up": LoraConfig(r=4, target_modules=["up_proj"], init_lora_weights=False),
        "attention": LoraConfig(
            r=12, lora_alpha=24, target_modules=["q_proj", "v_proj", "o_proj"], init_lora_weights=False
        ),
        "dora": LoraConfig(r=4, target_modules=["up_proj"], use_dora=True),
        "ia3": IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"]),
    }
    folders = {}
    for seed, (name, config) in enumerate(kinds.items()):
        torch.manual_seed(seed)
        folders[name] = tmp_path_factory.mktemp(name)
        get_peft_model(load_model(source, "float32")[0], config).save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def backend(source, adapters):
    backend = VLLMBackend(source, dtype="float32", rows=8)
    yield backend
    backend.close()


def by_generate(source, adapter=None):
    """What transformers writes, with an adapter beside the weights."""
    model, tokenizer = load_model(source, "float32")
    if adapter is not None:
        model = with_adapter(model, adapter)
    texts = []
    ends = [model.generation_config.eos_token_id, tokenizer.eos_token_id]
    for request in REQUESTS:
        ids = tokenizer(request.prompt, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=LIMIT, do_sample=False, eos_token_id=ends)[
            0, ids["input_ids"].shape[1] :
        ]
        texts.append(tokenizer.decode(out, skip_special_tokens=True))
    return texts


def written(backend, decoding=GREEDY, requests=REQUESTS):
    return [text.text for text in backend.generate(requests, decoding, LIMIT)]


@pytest.mark.vllm
@needs_vllm
def test_two_adapters_and_the_base_in_one_engine(backend, source, adapters):
    backend.use(adapters["up"])
    backend.use(adapters["attention"])
    attention = written(backend)
    engine = backend._engine
    backend.use(adapters["up"])
    up = written(backend)
    backend.use(None)
    base = written(backend)
    backend.use(adapters["attention"])
    assert written(backend) == attention == by_generate(source, adapters["attention"])
    assert backend._engine is engine
    assert up == by_generate(source, adapters["up"])
    assert base == by_generate(source)
    assert all(len(set(texts)) == 3 for texts in zip(base, up, attention, strict=True))


@pytest.mark.vllm
@needs_vllm
def test_a_draw_depends_on_its_seed_and_not_on_its_batch(backend, adapters):
    backend.use(adapters["up"])
    whole = written(backend, SAMPLING)
    # more than there are rows, in another order, with others between them
    crowd = [replace(request, seed=99) for request in REQUESTS * 2] + REQUESTS[::-1]
    assert written(backend, SAMPLING, crowd)[-6:][::-1] == whole
    assert [written(backend, SAMPLING, [request])[0] for request in REQUESTS] == whole
    assert written(backend, SAMPLING, [replace(request, seed=1) for request in REQUESTS]) != whole


@pytest.mark.vllm
@needs_vllm
def test_what_vllm_cannot_do_beside_the_weights(backend, adapters, tmp_path):
    backend.use(adapters["dora"])
    with pytest.raises(FlextuneError, match=r"\(vLLM does not yet support DoRA\): add it into them \(merged\), or use"):
        written(backend)
    with pytest.raises(FlextuneError, match=r"peft_type is IA3, and flextune reads LoRA adapters only"):
        backend.use(adapters["ia3"])
    config = json.loads((adapters["up"] / "adapter_config.json").read_text())
    shutil.copytree(adapters["up"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "rank_pattern": {"up_proj": 513}}))
    with pytest.raises(FlextuneError, match=r"\(rank 513, 512 at most\)"):
        backend.use(tmp_path)
    with pytest.raises(FlextuneError, match="is neither a PEFT adapter nor a run"):
        backend.use(tmp_path / "nothing")
    # it goes on after that
    backend.use(adapters["up"])
    assert len(written(backend)) == len(REQUESTS)


@pytest.mark.vllm
@needs_vllm
@pytest.mark.parametrize("kind", ["beam", "beam-sampling"])
def test_beams_are_refused(backend, kind):
    with pytest.raises(UsageError, match=f"kind: {kind} needs backend: transformers: vLLM's beam search does not stop"):
        backend.generate(REQUESTS, Decoding(kind=kind, beams=2), 4)


@pytest.mark.vllm
@needs_vllm
def test_a_temperature_that_vllm_does_not_take(backend):
    with pytest.raises(FlextuneError, match=r"vLLM refuses the request: temperature must be in \[0, 2\], got 3"):
        backend.generate(REQUESTS, Decoding(kind="sampling", temperature=3), 4)
    assert len(written(backend)) == len(REQUESTS)


@pytest.mark.vllm
@needs_vllm
def test_added_into_the_weights_and_beside_them_is_the_same_in_float32(backend, source, adapters):
    backend.use(adapters["up"])
    beside = written(backend)
    for name in ("up", "dora"):
        backend.use(adapters[name], merged=True)
        added = written(backend)
        assert added == by_generate(source, adapters[name])
        assert name != "up" or added == beside
    backend.close()
    # a base that has an adapter in its weights, and another beside them
    base = replace(source, adapters=(adapters["attention"],))
    other = VLLMBackend(base, dtype="float32", rows=8)
    other.use(adapters["up"])
    try:
        assert written(other) == by_generate(base, adapters["up"])
    finally:
        other.close()
