import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from flextune import models
from flextune.adapters import with_adapter
from flextune.errors import FlextuneError, UsageError
from flextune.files import read_json
from flextune.models import load_model
from flextune.tuning import merging
from flextune.tuning.adapters import add_adapter
from flextune.tuning.merging import base_of, check, merge
from flextune.tuning.preflight import check_training
from flextune.tuning.settings import Adapter, Training

PROMPTS = ["def add(a, b):\n", "def double(x):\n    return", "def largest(values):\n"]


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(1)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder)
    return folder


def rows(found):
    return {row.name: row for row in found.rows}


def test_a_merged_folder_is_a_model(tiny_model, adapter, tmp_path):
    output = merge(adapter, tmp_path / "merged", dtype="bfloat16")
    merged, tokenizer = load_model(models.find_model(str(output)))
    assert merged.dtype == torch.bfloat16
    assert tokenizer.decode(tokenizer("def f").input_ids) == "def f"
    base = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    tuned = with_adapter(AutoModelForCausalLM.from_pretrained(tiny_model), adapter)
    deltas = {name.removeprefix("base_model.model."): m for name, m in tuned.named_modules() if hasattr(m, "lora_A")}
    assert len(deltas) == 6
    for name, weight in merged.state_dict().items():
        expected = base[name]
        if (layer := name.removesuffix(".weight")) in deltas:
            expected = expected + deltas[layer].get_delta_weight("default")
        torch.testing.assert_close(weight, expected.bfloat16(), rtol=0, atol=0)
    about = read_json(output / "merge.json")
    assert (about["dtype"], set(about["model"])) == ("bfloat16", {"folder", "sha256"})


def test_a_second_time_does_nothing_and_another_merge_is_not_overwritten(adapter, tmp_path):
    output = merge(adapter, tmp_path / "merged")
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert merge(adapter, output) == output
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before
    with pytest.raises(UsageError, match="holds another merge: dtype is 'auto' there, 'float16' here"):
        merge(adapter, output, dtype="float16")
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match=r"other is there and no merge of flextune's"):
        merge(adapter, tmp_path / "other")


def test_settings_of_generation_come_along_as_they_are(tiny_model, adapter, tmp_path):
    """Also those that transformers refuses to save: a temperature without sampling, as many models come with."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    settings = {**read_json(folder / "generation_config.json"), "temperature": 0.6, "do_sample": False, "top_k": 20}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    output = merge(adapter, tmp_path / "merged", model=str(folder))
    assert read_json(output / "generation_config.json") == settings
    assert load_model(models.find_model(str(output)))
    (folder / "generation_config.json").unlink()
    assert not (merge(adapter, tmp_path / "without", model=str(folder)) / "generation_config.json").exists()


def test_an_adapter_names_its_base_from_any_folder(tiny_model, adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_model.parent)
    base, _ = load_model(models.find_model(tiny_model.name))
    get_peft_model(base, LoraConfig(r=2, target_modules=["up_proj"])).save_pretrained(tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    assert base_of(tmp_path / "adapter").path == tiny_model


@pytest.mark.parametrize(("kind", "dense"), [("mixtral", {}), ("qwen2_moe", {"shared_expert_intermediate_size": 24})])
def test_experts_are_merged(tmp_path, tiny_model, kind, dense):
    """Their layers are parameters, several of them in one module."""
    experts = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model(
        kind, vocab_size=600, num_hidden_layers=2, pad_token_id=1, **sizes, **experts, **dense
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "model")
    source = models.find_model(str(tmp_path / "model"))
    settings = Adapter(targets="mlp", rank=2, dropout=0.0, peft={"init_lora_weights": False})
    add_adapter(load_model(source, "float32")[0], settings).save_pretrained(tmp_path / "adapter")
    output = merge(tmp_path / "adapter", tmp_path / "merged")
    found = check(source, tmp_path / "adapter", PROMPTS, output)
    assert found.fault is None
    row = rows(found)["merged, float32"]
    assert (row.kept, row.error) == (pytest.approx(1, abs=1e-6), pytest.approx(0, abs=1e-5))
    assert rows(found)["without the adapter, float32"].largest_logit > 1e-3
    assert rows(found)["as written"].error < 1e-5


def test_a_head_of_its_own_is_no_longer_tied(tiny_model, tmp_path):
    """A reader that goes by config.json would put the embedding in its place."""
    folder = tmp_path / "model"
    config = AutoConfig.from_pretrained(tiny_model, tie_word_embeddings=True)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    base, _ = load_model(models.find_model(str(folder)))
    tuned = get_peft_model(base, LoraConfig(r=2, target_modules=["up_proj"], modules_to_save=["lm_head"]))
    torch.nn.init.normal_(tuned.base_model.model.lm_head.modules_to_save["default"].weight)
    tuned.save_pretrained(tmp_path / "adapter")
    output = merge(tmp_path / "adapter", tmp_path / "merged", model=str(folder))
    assert read_json(output / "config.json")["tie_word_embeddings"] is False
    merged, _ = load_model(models.find_model(str(output)))
    assert not torch.equal(merged.lm_head.weight, merged.model.embed_tokens.weight)


def test_a_merge_that_overflows_its_type_is_refused(tiny_model, adapter, tmp_path):
    huge = shutil.copytree(adapter, tmp_path / "huge")
    weights = load_file(huge / "adapter_model.safetensors")
    save_file(
        {name: weight * 1e4 for name, weight in weights.items()}, huge / "adapter_model.safetensors", {"format": "pt"}
    )
    with pytest.raises(FlextuneError, match=r"merged in float16, .* overflows its type: choose another --dtype"):
        merge(huge, tmp_path / "merged", dtype="float16")
    assert not (tmp_path / "merged").exists()


def test_merging_says_that_the_adapter_is_anothers(tiny_model, adapter, tmp_path, capsys):
    other = shutil.copytree(adapter, tmp_path / "other")
    config = {**read_json(other / "adapter_config.json"), "base_model_name_or_path": "somebody/else"}
    (other / "adapter_config.json").write_text(json.dumps(config))
    merge(other, tmp_path / "merged", model=str(tiny_model))
    assert "names somebody/else as its base model" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_merged_is_refused_before_training(tiny_model, tmp_path):
    bias = Adapter(targets="mlp", peft={"lora_bias": True})
    source = models.find_model(str(tiny_model))
    check_training(source, Training(), bias)
    with pytest.raises(
        FlextuneError, match=r"has a bias \(lora_bias\) for gate_proj, .*: measure it unmerged, or train wi"
    ):
        check_training(source, Training(), bias, merged=True)
    add_adapter(load_model(source)[0], bias).save_pretrained(tmp_path / "adapter")
    with pytest.raises(FlextuneError, match=r"has a bias \(lora_bias\)"):
        merge(tmp_path / "adapter", tmp_path / "merged")


def test_four_bits_are_refused(tiny_model, adapter, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(FlextuneError, match=r"are quantized: merging into them would lose most of the adapter"):
        merge(adapter, tmp_path / "merged", model=str(folder))
    assert not (tmp_path / "merged").exists()


def test_an_adapter_that_names_no_model(adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    config = read_json(folder / "adapter_config.json")
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(UsageError, match=r"adapter_config.json names no base_model_name_or_path: give --model"):
        merge(folder, tmp_path / "merged")


def test_the_check_measures_each_type(adapter, tmp_path):
    source = base_of(adapter)
    found = check(source, adapter, PROMPTS, merge(adapter, tmp_path / "merged", dtype="bfloat16"))
    assert found.fault is None
    assert (found.prompts, found.positions > 10) == (3, True)
    each = rows(found)
    exact = each["merged, float32"]
    assert exact.largest_logit < 1e-5
    assert (exact.kept, exact.error) == (pytest.approx(1, abs=1e-6), pytest.approx(0, abs=1e-5))
    assert exact.flipped == 0
    # the coarser the type, the more is lost
    assert exact.error < each["merged, float16"].error < each["merged, bfloat16"].error < 0.1
    # cast once; the other rounded the float32 weights of this checkpoint when it loaded them
    assert 0 < each["as written"].error <= each["merged, bfloat16"].error
    nothing = each["without the adapter, float32"]
    assert (nothing.kept, nothing.error) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))
    assert nothing.kl > 100 * each["merged, bfloat16"].kl > 0
    assert each["unmerged, bfloat16"].kept == pytest.approx(1, abs=0.01)


def test_a_merge_of_dora_is_judged_by_its_logits(tiny_model, tmp_path):
    config = LoraConfig(r=4, target_modules=["up_proj"], init_lora_weights=False, use_dora=True)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path)
    found = check(base_of(tmp_path), tmp_path, PROMPTS)
    exact = rows(found)["merged, float32"]
    assert (found.fault, exact.kept, exact.error) == (None, None, None)
    assert exact.largest_logit < 1e-5


def test_the_divergence_is_that_of_the_two_models(tiny_model, adapter):
    found = rows(check(base_of(adapter), adapter, PROMPTS[:1]))["without the adapter, float32"]
    base, tokenizer = load_model(base_of(adapter), "float32")
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        without = base(ids).logits[0]
        tuned = with_adapter(base, adapter).eval()(ids).logits[0]
    expected = torch.nn.functional.kl_div(
        without.log_softmax(-1), tuned.log_softmax(-1), log_target=True, reduction="sum"
    )
    assert found.kl == pytest.approx(float(expected) / len(tuned), rel=1e-4)
    assert found.largest_logit == pytest.approx(float((without - tuned).abs().max()), rel=1e-4)


def test_a_merge_that_adds_twice_is_caught(adapter, monkeypatch):
    real = merging.with_adapter

    def twice(model, folder, merged=False, **options):
        model = real(model, folder, merged=merged, **options)
        return real(model, folder, merged=True, **options) if merged else model

    monkeypatch.setattr(merging, "with_adapter", twice)
    assert "200.0 % of ΔW is in the weights" in check(base_of(adapter), adapter, PROMPTS).fault


def test_a_merge_that_spoils_other_weights_is_caught(adapter, monkeypatch):
    real = merging.with_adapter

    def spoiled(model, folder, merged=False, **options):
        model = real(model, folder, merged=merged, **options)
        if merged:
            model.model.norm.weight.data *= 1.1
        return model

    monkeypatch.setattr(merging, "with_adapter", spoiled)
    assert "a logit differs from the unmerged model's" in check(base_of(adapter), adapter, PROMPTS).fault


def test_what_four_bits_keep_of_an_adapter(tiny_model, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is missing (pip install 'flextune[qlora]')")
    config = LlamaConfig(
        vocab_size=600, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "model")
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["up_proj", "down_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:  # as small beside the weights as a short training leaves it
            torch.nn.init.normal_(parameter, std=2e-4)
    tuned.save_pretrained(tmp_path / "adapter")
    source = base_of(tmp_path / "adapter", str(tmp_path / "model"))
    found = {(row.against, row.name): row for row in check(source, tmp_path / "adapter", PROMPTS).rows}
    merged = found["unmerged, NF4", "merged into NF4"]
    assert abs(merged.kept) < 0.3
    assert merged.error == pytest.approx(1, abs=0.3)
    # the weights that a 4-bit adapter was trained on are as far from those of 16 bits as these are from those
    there, back = found["unmerged, float32", "unmerged, NF4"], found["unmerged, NF4", "unmerged, float16"]
    assert there.error == pytest.approx(back.error, rel=0.02)
    assert there.error > 2


def test_a_zero_adapter_has_nothing_to_keep(tiny_model, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"])
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path)
    found = check(base_of(tmp_path), tmp_path, PROMPTS[:1])
    assert (found.fault, found.rows[0].kept, found.rows[0].error) == (None, None, None)


def test_a_type_that_overflows_is_said_and_no_nan(tiny_model, adapter, tmp_path):
    folder = tmp_path / "large"
    model, tokenizer = load_model(models.find_model(str(tiny_model)), "float32")
    model.model.layers[0].mlp.down_proj.weight.data *= 1e8
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    found = rows(check(base_of(adapter, str(folder)), adapter, PROMPTS[:1]))
    assert found["merged, float16"].kl is None
    assert replace(found["merged, float16"], kept=0.0).largest_logit is None
    assert found["merged, bfloat16"].kl is not None
