import importlib.util
import json
import shutil

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from flextune import hub
from flextune.adapters import find_adapter, with_adapter
from flextune.checkpoints import compute_dtype
from flextune.errors import FlextuneError
from flextune.files import read_json
from flextune.models import ModelSource, context, find_model, load_config, load_model, shapes


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


def changed(tiny_model, folder, change, **config):
    """A copy of the model with other weights under its configuration."""
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    weights = change(dict(weights)) or weights
    save_file(
        {name: weight.clone() for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    settings = {**read_json(folder / "config.json"), **config}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def renamed(before, after):
    return lambda weights: {name.replace(before, after): weight for name, weight in weights.items()}


INCOMPLETE = {
    "another prefix": (
        renamed("model.", "module.model."),
        {},
        r"20 missing, such as model.embed_tokens.weight; 20 unexp",
    ),
    "a layer is missing": (
        lambda weights: {name: weight for name, weight in weights.items() if ".layers.1." not in name},
        {},
        r": 9 missing, such as model.layers.1.input_layernorm.weight$",
    ),
    "a layer too many": (lambda weights: None, {"num_hidden_layers": 1}, r": 9 unexpected, such as model.layers.1.inp"),
    "no head": (
        lambda weights: {name: weight for name, weight in weights.items() if name != "lm_head.weight"},
        {"tie_word_embeddings": False},
        r": 1 missing, such as lm_head.weight$",
    ),
    "an adapter was in it": (
        renamed("q_proj.weight", "q_proj.base_layer.weight"),
        {},
        r"2 missing, .*; 2 unexpected, such as .*base_layer.weight; it was saved with an adapter in it: merge",
    ),
    "a bias that nothing reads": (
        lambda weights: {**weights, "model.layers.0.self_attn.q_proj.bias": torch.zeros(32)},
        {},
        r": 1 unexpected, such as model.layers.0.self_attn.q_proj.bias$",
    ),
    "another shape": (
        lambda weights: None,
        {"intermediate_size": 40},
        r"model.layers.0.mlp.down_proj.weight has the shape \(32, 48\), and config.json describes \(32, 40\)",
    ),
    "integers without a scale": (
        lambda weights: {**weights, "lm_head.weight": weights["lm_head.weight"].to(torch.int8)},
        {},
        r"stores lm_head.weight in I8, and config.json has no quantization_config",
    ),
    "integers of experts, and no quantization": (
        lambda weights: {**weights, "model.norm.gate_up_proj": torch.ones(2, 4, 4, dtype=torch.int64)},
        {"quantization_config": None},
        r"stores model.norm.gate_up_proj in I64",
    ),
    "an unknown quantization": (
        lambda weights: None,
        {"quantization_config": {"quant_method": "nosuch"}},
        r"transformers does not know the quant_method 'nosuch'",
    ),
    "no number": (
        lambda weights: {**weights, "model.norm.weight": weights["model.norm.weight"] * torch.nan},
        {},
        r"contains NaN or infinity, such as in model.norm.weight",
    ),
}


@pytest.mark.parametrize("case", INCOMPLETE)
def test_weights_that_are_not_the_models_are_refused(tiny_model, tmp_path, case):
    change, config, message = INCOMPLETE[case]
    folder = changed(tiny_model, tmp_path / "model", change, **config)
    with pytest.raises(FlextuneError, match=message):
        load_model(find_model(str(folder)))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("gpt2", "transformer.h.0.attn.masked_bias"), ("gpt_neo", "transformer.h.0.attn.attention.bias")],
)
def test_causal_masks_of_older_versions_are_no_weights(tiny_model, tmp_path, kind, name):
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "hidden_size": 16, "num_layers": 1, "num_heads": 2}
    config = transformers.AutoConfig.for_model(kind, vocab_size=600, attention_types=[[["global"], 1]], **sizes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {**weights, name: torch.ones(1, 1, 4, 4, dtype=torch.uint8)}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    transformers.AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    assert load_model(find_model(str(tmp_path)))


def test_a_snapshot_of_the_hub_with_an_adapter_in_it(tiny_model, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_model, tmp_path / "snapshot")
    (folder / "adapter_config.json").write_text("{}")
    monkeypatch.setattr(hub, "online", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(folder))
    with pytest.raises(FlextuneError, match=r"is both a model \(config.json\) and an adapter"):
        find_model("a/b")


def test_only_what_a_model_reads_is_in_its_checksums(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    before = find_model(str(folder)).settings()
    assert {"config.json", "tokenizer.json", "generation_config.json"} <= before.keys()
    for name in ("merge.json", "notes.txt", "README.md", "model.safetensors.index.json"):
        (folder / name).write_text("{}")
    assert find_model(str(folder)).settings() == before


def test_what_no_model_can_be_made_of_is_one_sentence(tiny_model, tmp_path):
    for number, config in enumerate(({"hidden_act": "nosuch"}, {"model_type": "t5"}, {"vocab_size": -1})):
        folder = changed(tiny_model, tmp_path / str(number), lambda weights: None, **config)
        with pytest.raises(
            FlextuneError, match=r"no causal language model can be made of the configuration|cannot be read"
        ):
            shapes(load_config(find_model(str(folder))))
    (folder / "config.json").write_text("[]")
    with pytest.raises(FlextuneError, match=r"config.json: expected an object, found list"):
        load_config(find_model(str(folder)))


def test_what_transformers_itself_leaves_out_is_no_reason(tiny_model, tmp_path):
    """Tied weights are stored once; old checkpoints hold rotary frequencies; some lack the prefix `model.`."""
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    folder = changed(tiny_model, tmp_path / "old", lambda weights: {**weights, **old})
    assert load_model(find_model(str(folder)))
    tied = {"tie_word_embeddings": True}
    folder = changed(
        tiny_model, tmp_path / "tied", lambda w: {n: t for n, t in w.items() if "lm_head" not in n}, **tied
    )
    model, _ = load_model(find_model(str(folder)))
    assert model.lm_head.weight is model.model.embed_tokens.weight


QUANTIZED = {
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
}


@pytest.mark.parametrize("method", QUANTIZED)
def test_quantized_weights_without_their_library(tiny_model, tmp_path, method):
    if importlib.util.find_spec({"gptq": "optimum", "awq": "gptqmodel"}.get(method, method)):
        pytest.skip("the library is installed")
    folder = changed(tiny_model, tmp_path / "model", lambda weights: None, quantization_config=QUANTIZED[method])
    with pytest.raises(FlextuneError, match=r"model in .* cannot be loaded: .* requires .*pip install"):
        load_model(find_model(str(folder)))


def test_one_sentence_for_a_broken_folder(tiny_model, tmp_path):
    def broken(name, content):
        folder = shutil.copytree(tiny_model, tmp_path / str(len(list(tmp_path.iterdir()))))
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(content)
        return ModelSource(folder, {})

    cases = [
        ("config.json", "{", "config.json, line 1: not valid JSON"),
        ("config.json", json.dumps({"model_type": "nosuch"}), "the configuration of the model .* cannot be read: "),
        ("tokenizer.json", "{", "has no tokenizer that can be loaded"),
        ("tokenizer.json", None, "has no tokenizer that can be loaded|has no token for a line of Python"),
        ("model.safetensors", "x" * 64, "model.safetensors cannot be read: "),
    ]
    for name, content, message in cases:
        with pytest.raises(FlextuneError, match=message) as error:
            load_model(broken(name, content))
        assert "\n" not in str(error.value)


def test_code_of_a_models_own_is_never_run(tiny_model, tmp_path, monkeypatch):
    """transformers would ask on the terminal, and wait."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    own = {"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}, "model_type": "own"}
    folder = changed(tiny_model, tmp_path / "model", lambda weights: None, **own)
    (folder / "own.py").write_text("raise SystemExit('it runs')")
    with pytest.raises(
        FlextuneError, match=r"needs code of its own \(auto_map .*\), which flextune does not run; use a"
    ):
        load_model(find_model(str(folder)))


def test_a_folder_is_a_model_or_an_adapter(tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model

    folder = shutil.copytree(tiny_model, tmp_path / "both")
    base, _ = load_model(ModelSource(tiny_model, {}))
    get_peft_model(base, LoraConfig(r=2, target_modules=["up_proj"])).save_pretrained(folder)
    assert find_adapter(folder) == folder
    with pytest.raises(
        FlextuneError, match=r"both is both a model \(config.json\) and an adapter .*; move the adapter's"
    ):
        find_model(str(folder))


@pytest.mark.parametrize(
    ("own", "instructions", "dtype"),
    [
        ("bfloat16", {"avx512_bf16": True}, "bfloat16"),
        ("bfloat16", {"avx512_bf16": False, "amx_bf16": False}, "float32"),
        ("bfloat16", {"bf16": True}, "bfloat16"),  # ARM
        ("float16", {"avx512_bf16": True}, "float32"),
        ("float32", {}, "float32"),
    ],
)
def test_auto_is_what_the_processor_has_instructions_for(tiny_model, tmp_path, monkeypatch, own, instructions, dtype):
    if torch.cuda.is_available():
        pytest.skip("about processors")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    source = find_model(str(changed(tiny_model, tmp_path / "model", lambda weights: None, dtype=own)))
    assert compute_dtype(source, "auto") == dtype
    assert compute_dtype(source, "bfloat16") == "bfloat16"  # who asks for it gets it


def test_a_type_that_config_does_not_name_is_that_of_the_weights(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    half = changed(tiny_model, tmp_path / "model", lambda w: {n: t.bfloat16() for n, t in w.items()}, dtype=None)
    assert compute_dtype(find_model(str(half)), "auto") == "bfloat16"


def test_the_context_of_long_rope_ends_where_positions_turn_otherwise():
    plain = transformers.Phi3Config(max_position_embeddings=4096, pad_token_id=0)
    factors = [1.0] * (plain.hidden_size // plain.num_attention_heads // 2)
    rope = {"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "rope_theta": 1e4}
    long = transformers.Phi3Config(
        max_position_embeddings=131072, original_max_position_embeddings=4096, rope_parameters=rope, pad_token_id=0
    )
    assert (context(plain), context(long)) == (4096, 4096)
    assert context(transformers.GPT2Config(n_positions=77)) == 77
    assert context(transformers.BloomConfig()) is None


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
