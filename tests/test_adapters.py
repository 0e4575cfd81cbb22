"""An adapter of which any weight does not land in the model is refused, whoever asks: the base would be measured."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from flextune.adapters import find_adapter, warn_of_other_base, with_adapter
from flextune.errors import FlextuneError
from flextune.files import read_json
from flextune.models import check_adapters, find_model, load_model
from flextune.pipeline import generate_only
from flextune.tuning.adapters import add_adapter
from flextune.tuning.merging import merge
from flextune.tuning.settings import Adapter


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder)
    return folder


def changed(whole, folder, change, **config):
    shutil.copytree(whole, folder)
    weights = change(load_file(whole / "adapter_model.safetensors"))
    save_file({name: w.clone() for name, w in weights.items()}, folder / "adapter_model.safetensors", {"format": "pt"})
    settings = {**read_json(folder / "adapter_config.json"), **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def only(*parts):
    return lambda weights: {name: weight for name, weight in weights.items() if any(part in name for part in parts)}


def same(weights):
    return weights


HALF = {
    "another prefix": (
        lambda weights: {name.replace("base_model.model.", "base_model."): w for name, w in weights.items()},
        {},
        r"does not fit the model: 8 missing, such as .*; 8 unexpected, such as .* of 8 weights; the base model",
    ),
    "half of the layers": (
        only(".layers.0."),
        {},
        r": 4 missing, such as .*layers.1.mlp.up_proj.lora_A.* of 8 weights",
    ),
    "only A": (only("lora_A"), {}, r": 4 missing, such as .*lora_B"),
    "none": (only("nothing"), {}, r"has no weights in it"),
    "more than the model has": (
        lambda weights: {**weights, "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.ones(2, 32)},
        {},
        r": 1 unexpected, such as .*layers.7",
    ),
    "another rank": (same, {"r": 4}, r"does not fit the model: .*size mismatch for .*lora_A.*: .*2, 32.*4, 32"),
    "another size": (
        lambda weights: {n: torch.ones(2, 5) if "0.self_attn.q_proj.lora_A" in n else w for n, w in weights.items()},
        {},
        r"size mismatch for .*q_proj.lora_A.*: .*2, 5",
    ),
    "NaN": (
        lambda weights: {name: weight * torch.nan for name, weight in weights.items()},
        {},
        r"contains NaN or infinity, such as in .*lora_A.*: train it again",
    ),
    "a kind of LoRA that looks at other tokens": (
        same,
        {"alora_invocation_tokens": [5, 6]},
        r"alora_invocation_tokens makes it a kind of LoRA that flextune does not know",
    ),
    "no kind": (same, {"peft_type": None}, r"adapter_config.json has no peft_type: expected LORA"),
    **{
        kind: (same, {"peft_type": kind}, rf"peft_type is {kind}, and flextune reads LoRA adapters only")
        for kind in ("PROMPT_TUNING", "PREFIX_TUNING", "IA3", "LOHA", "VERA", "ADALORA")
    },
}


@pytest.mark.parametrize("case", HALF)
def test_an_adapter_that_does_not_land_is_refused(tiny_model, whole, tmp_path, case):
    change, config, message = HALF[case]
    adapter = changed(whole, tmp_path / "changed", change, **config)
    source = find_model(str(tiny_model))
    with pytest.raises(FlextuneError, match=message):
        with_adapter(load_model(source)[0], adapter)
    with pytest.raises(FlextuneError, match=message):  # without the model's weights, before anything is measured
        check_adapters(source, [adapter])


def test_every_verb_refuses_it(tiny_model, whole, tmp_path, call):
    adapter = changed(whole, tmp_path / "changed", only(".layers.0."))
    start, message = Adapter(start=str(adapter)), "4 missing, such as"
    with pytest.raises(FlextuneError, match=message):
        add_adapter(load_model(find_model(str(tiny_model)))[0], start)
    with pytest.raises(FlextuneError, match=message):
        merge(adapter, tmp_path / "merged", model=str(tiny_model))
    common = ["--benchmark", "basics-python", "--limit", "1", "--adapter", adapter, "--output"]
    code, _, err = call("generate", "--model", tiny_model, *common, tmp_path / "generated")
    assert (code, message in err) == (1, True)
    code, _, err = call("evaluate", tiny_model, *common, tmp_path / "evaluated")
    assert (code, message in err) == (1, True)
    recipe = f"{{model: {tiny_model}, training: {{dataset: basics}}, adapter: {{start: {adapter}}}}}"
    (tmp_path / "recipe.yaml").write_text(recipe)
    code, _, err = call("run", tmp_path / "recipe.yaml", "--output", tmp_path / "run")
    assert (code, message in err) == (1, True)
    assert not list(tmp_path.glob("*/**/completions*"))


def test_texts_from_the_cache_are_refused_as_well(tiny_model, whole, tmp_path):
    """They were written before an adapter was looked at so closely."""
    settings = {"decoding": {}, "generation": {"max_new_tokens": 4}, "adapter": str(whole), "limit": 2}
    generate_only(str(tiny_model), "basics-python", tmp_path / "first", **settings)
    adapter = changed(whole, tmp_path / "changed", only(".layers.0."))
    cut = adapter / "adapter_model.safetensors"
    with pytest.raises(FlextuneError, match="4 missing, such as"):
        generate_only(str(tiny_model), "basics-python", tmp_path / "second", **settings | {"adapter": str(cut.parent)})


def test_more_than_factors_has_to_land_too(tiny_model, tmp_path):
    """A head that is trained whole, the size of DoRA, biases: each is part of the adapter."""
    kinds = {
        "lm_head": {"modules_to_save": ["lm_head"]},
        "magnitude": {"use_dora": True},
        "embed_tokens": {"modules_to_save": ["embed_tokens"]},
    }
    for part, more in kinds.items():
        config = LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False, **more)
        get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path / part)
        with_adapter(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path / part)
        cut = changed(
            tmp_path / part,
            tmp_path / f"{part}-cut",
            lambda w, part=part: {n: t for n, t in w.items() if part not in n},
        )
        with pytest.raises(FlextuneError, match=rf"missing, such as .*{part}|{part}.* is missing"):
            with_adapter(AutoModelForCausalLM.from_pretrained(tiny_model), cut)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_factors_out_of_the_weights_load_as_peft_loads_them(tiny_model, tmp_path, start):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    get_peft_model(base, LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=start)).save_pretrained(tmp_path)
    source = find_model(str(tiny_model))
    check_adapters(source, [tmp_path])
    ids = torch.tensor([[5, 6, 7]])
    ours = with_adapter(load_model(source, "float32")[0], tmp_path)(ids).logits
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path)(ids).logits
    torch.testing.assert_close(ours, theirs)


def test_biases_are_missed_next_to_an_embedding_that_is_saved(tiny_model, tmp_path):
    config = LoraConfig(r=2, target_modules=["up_proj"], bias="all", init_lora_weights=False)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_model, attention_bias=True))
    get_peft_model(base, config).save_pretrained(tmp_path / "whole", save_embedding_layers=True)
    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_model, attention_bias=True))
    with_adapter(fresh, tmp_path / "whole")
    cut = changed(
        tmp_path / "whole", tmp_path / "cut", lambda w: {n: t for n, t in w.items() if not n.endswith(".bias")}
    )
    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_model, attention_bias=True))
    with pytest.raises(FlextuneError, match=r"missing, such as .*bias"):
        with_adapter(fresh, cut)


def test_what_does_nothing_or_is_not_known_is_said(tiny_model, whole, tmp_path, capsys):
    zero = changed(
        whole, tmp_path / "zero", lambda w: {n: t * ("lora_A" in n) for n, t in w.items()}, use_future_thing=True
    )
    with_adapter(load_model(find_model(str(tiny_model)))[0], zero)
    said = " ".join(capsys.readouterr().err.split())
    assert "has use_future_thing, which this version of PEFT ignores" in said
    assert "does nothing, since every factor B is zero: the model is the base model" in said


def test_an_adapter_lands_with_all_its_values(tiny_model, whole):
    tuned = with_adapter(load_model(find_model(str(tiny_model)))[0], whole)
    here = {name.replace(".default", ""): p for name, p in tuned.named_parameters() if "lora_" in name}
    there = load_file(whole / "adapter_model.safetensors")
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in there)


@pytest.mark.parametrize(
    ("named", "model", "warned"),
    [
        ("codellama/CodeLlama-7b-hf", "/models/codellama-7b-hf", False),
        ("/h/models--a--CodeLlama-7b-hf/snapshots/0f1", "codellama/CodeLlama-7b-hf", False),
        ("codellama/CodeLlama-7b-hf", "codellama/CodeLlama-13b-hf", True),
        (None, "anything", False),
    ],
)
def test_another_base_model_is_said(whole, tmp_path, capsys, named, model, warned):
    warn_of_other_base(changed(whole, tmp_path / "a", same, base_model_name_or_path=named), model)
    said = " ".join(capsys.readouterr().err.split())
    assert (f"names {named} as its base model, and is used on {model}" in said) == warned


def test_a_run_knows_its_base_models_checksum(whole, tmp_path, capsys):
    changed(whole, tmp_path / "adapter", same, base_model_name_or_path="other")
    (tmp_path / "run.json").write_text(json.dumps({"inputs": {"model": {"sha256": {"model.safetensors": "1"}}}}))
    adapter = find_adapter(tmp_path)
    warn_of_other_base(adapter, "mine", {"model.safetensors": "1"})
    assert capsys.readouterr().err == ""
    warn_of_other_base(adapter, "mine", {"model.safetensors": "2"})
    assert "was trained on other weights than those of mine" in " ".join(capsys.readouterr().err.split())
