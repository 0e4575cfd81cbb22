import importlib.util

import huggingface_hub
import pytest
import torch
import transformers

from flextune import hub
from flextune.errors import FlextuneError
from flextune.models import ModelSource, find_adapter, find_model, load_model, with_adapter


def test_four_bits_need_their_library(tiny_model, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FlextuneError, match=r"quantization = 'nf4' needs bitsandbytes: run `pip install 'flextune"):
        load_model(ModelSource(tiny_model, {}, quantization="nf4"))


def test_four_bits_are_those_of_qlora(tiny_model, monkeypatch):
    asked = {}

    def load(path, **options):
        asked.update(options)
        raise OSError("enough")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    with pytest.raises(FlextuneError, match="enough"):
        load_model(ModelSource(tiny_model, {}, quantization="nf4"), "float16")
    config = asked["quantization_config"]
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.float16


def test_several_adapters_are_added_one_after_the_other(tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model

    folders = []
    for number in range(2):
        torch.manual_seed(number)
        base, _ = load_model(ModelSource(tiny_model, {}), "float32")
        config = LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False)
        get_peft_model(base, config).save_pretrained(tmp_path / str(number))
        folders.append(tmp_path / str(number))

    def weight(*adapters):
        model, _ = load_model(ModelSource(tiny_model, {}, adapters=adapters), "float32")
        return model.model.layers[0].mlp.up_proj.weight

    first, second = (weight(folder) - weight() for folder in folders)
    torch.testing.assert_close(weight(*folders), weight() + first + second)
    assert first.abs().max() > 1e-4


def test_a_change_of_tied_weights_is_not_merged(tmp_path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    shape = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )

    def base():
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(shape)

    for target in ("lm_head", "embed_tokens", "up_proj"):
        folder = tmp_path / target
        config = LoraConfig(r=2, target_modules=[target], init_lora_weights=False)
        get_peft_model(base(), config).save_pretrained(folder)
        if target == "up_proj":
            with_adapter(base(), folder, merged=True)
        else:
            with pytest.raises(FlextuneError, match=f"changes {target}, whose weights are also another layer's"):
                with_adapter(base(), folder, merged=True)


def test_an_adapter_that_is_torn_or_half_there(tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model

    base, _ = load_model(ModelSource(tiny_model, {}))
    get_peft_model(base, LoraConfig(r=2, target_modules=["up_proj"])).save_pretrained(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    fresh, _ = load_model(ModelSource(tiny_model, {}))
    with pytest.raises(FlextuneError, match="does not fit the model: "):
        with_adapter(fresh, find_adapter(tmp_path))
    weights.unlink()
    with pytest.raises(FlextuneError, match=r"has an adapter_config\.json, and no adapter_model\.safetensors"):
        with_adapter(fresh, find_adapter(tmp_path))


@pytest.mark.parametrize(
    ("kind", "said", "advice"),
    [
        (
            "GatedRepoError",
            "Cannot access gated repo",
            "accept its terms at https://huggingface.co/a/b, and run `hf auth",
        ),
        ("RepositoryNotFoundError", "Repository Not Found", "check its name and revision"),
        ("OSError", "no route", "download it where there is a network"),
    ],
)
def test_what_the_hub_says_is_said(monkeypatch, kind, said, advice):
    def fetch(name, **options):
        raise type(kind, (OSError,), {})(f"401 Client Error. (Request ID: x)\n\n{said}\nmore")

    monkeypatch.setattr(hub, "online", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(FlextuneError, match=f"the model a/b cannot be fetched: {said}; {advice}"):
        find_model("a/b")


@pytest.mark.gpu
def test_an_adapter_learns_beside_four_bits(tiny_model):
    from flextune.tuning.adapters import add_adapter
    from flextune.tuning.settings import Adapter

    pytest.importorskip("bitsandbytes")
    base, tokenizer = load_model(ModelSource(tiny_model, {}, quantization="nf4"), "float32")
    model = add_adapter(base, Adapter(rank=2))
    assert {p.dtype for name, p in model.named_parameters() if "lora" in name} == {torch.float32}
    assert base.model.layers[0].mlp.up_proj.base_layer.weight.dtype == torch.uint8
    ids = tokenizer("def add(a, b):", return_tensors="pt")["input_ids"].cuda()
    model(input_ids=ids, labels=ids).loss.backward()
    gradients = [p.grad for name, p in model.named_parameters() if "lora_B" in name]
    assert all(gradient.abs().max() > 0 for gradient in gradients)
