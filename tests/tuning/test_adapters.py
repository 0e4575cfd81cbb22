import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from flextune.adapters import with_adapter
from flextune.errors import FlextuneError, UsageError
from flextune.models import ModelSource, load_model
from flextune.tuning.adapters import add_adapter, scaled
from flextune.tuning.settings import Adapter


def code_llama():
    """Code Llama 7B's shapes without memory."""
    config = LlamaConfig(
        vocab_size=32_016,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("attention", 4_194_304),
        ("comprehensive", 11_927_552),  # the paper's Table 1
        ("mlp", 11_599_872),  # its section 8.4
        ("all-linear", 19_988_480),
        (["gate_proj"], 3_866_624),
    ],
)
def test_parameters_are_those_of_the_paper(targets, expected):
    base = code_llama()
    assert sum(p.numel() for p in base.parameters()) == 6_738_546_688
    trainable, _ = add_adapter(base, Adapter(targets=targets, rank=8)).get_nb_trainable_parameters()
    assert trainable == expected


def test_any_setting_of_peft(tiny_model):
    base, _ = load_model(ModelSource(tiny_model, {}))
    model = add_adapter(base, Adapter(rank=2, alpha="3r", peft={"use_rslora": True, "layers_to_transform": [1]}))
    config = model.peft_config["default"]
    assert (config.use_rslora, config.lora_alpha) == (True, 6)
    assert {name.split(".layers.")[1][0] for name, _ in model.named_parameters() if "lora_A" in name} == {"1"}


@pytest.mark.parametrize(
    ("peft", "message"),
    [
        ({"lora_alpha": 4}, "adapter.peft.lora_alpha: write adapter.alpha instead"),
        ({"use_dorra": True}, "adapter.peft.use_dorra is not a field of peft.LoraConfig .* there are .*use_dora"),
        ({"kasa_config": {}}, "adapter.peft.kasa_config needs a loss of its own, which is not added here"),
        ({"inference_mode": True}, "adapter.peft.inference_mode is not a field .* that can be set here"),
        (
            {"init_lora_weights": "pissa", "use_dora": True},
            "= 'pissa' is saved as a difference .* hold adapter.peft.use_do",
        ),
        ({"init_lora_weights": "olora", "bias": "all"}, "cannot hold adapter.peft.bias: leave out one of the two"),
        (
            {"init_lora_weights": "pissa_niter_4", "use_rslora": True, "rank_pattern": {"up_proj": 4}},
            "cannot hold adapter.peft.rank_pattern",
        ),
        ({"init_lora_weights": "EVA"}, "init_lora_weights = 'EVA' needs a pass over data first; there are .* pissa"),
    ],
)
def test_settings_that_cannot_be(tiny_model, peft, message):
    base, _ = load_model(ModelSource(tiny_model, {}))
    with pytest.raises(UsageError, match=message):
        add_adapter(base, Adapter(peft=peft))


def test_targets_that_the_model_has_not(tiny_model):
    base, _ = load_model(ModelSource(tiny_model, {}))
    with pytest.raises(FlextuneError, match=r"adapter.targets = \['query'\] does not fit this model"):
        add_adapter(base, Adapter(targets=["query"]))


def test_values_that_peft_refuses_name_the_key(tiny_model):
    base, _ = load_model(ModelSource(tiny_model, {}))
    with pytest.raises(FlextuneError, match=r"adapter.peft = \{'init_lora_weights': 'best'\} does not fit this model"):
        add_adapter(base, Adapter(peft={"init_lora_weights": "best"}))


def test_an_adapter_of_changed_weights_is_no_start(tiny_model, tmp_path):
    base, _ = load_model(ModelSource(tiny_model, {}), "float32")
    add_adapter(base, Adapter(rank=2, peft={"init_lora_weights": "pissa"})).save_pretrained(tmp_path)
    base, _ = load_model(ModelSource(tiny_model, {}), "float32")
    with pytest.raises(FlextuneError, match="init_lora_weights = 'pissa' and was saved as factors of changed weights"):
        add_adapter(base, Adapter(start=str(tmp_path)))


def test_settings_beside_an_adapter_to_start_from_are_refused():
    with pytest.raises(ValueError, match=r"rank = 4: has no effect beside adapter.start = 'x', which has its own"):
        Adapter(start="x", rank=4)


def test_an_adapter_to_start_from_has_to_be_there(tiny_model, tmp_path):
    base, _ = load_model(ModelSource(tiny_model, {}))
    with pytest.raises(FlextuneError, match="is neither a PEFT adapter nor a run that has one"):
        add_adapter(base, Adapter(start=str(tmp_path)))


def test_a_weaker_copy_has_so_much_of_the_change(tiny_model, tmp_path):
    base, _ = load_model(ModelSource(tiny_model, {}), "float32")
    tuned = add_adapter(base, Adapter(rank=2, alpha=5))
    torch.manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    tuned.save_pretrained(tmp_path / "adapter")
    weaker = scaled(tmp_path / "adapter", 0.25, tmp_path / "weaker")

    def delta(folder):
        model = with_adapter(load_model(ModelSource(tiny_model, {}), "float32")[0], folder)
        return model.base_model.model.model.layers[1].mlp.up_proj.get_delta_weight("default")

    torch.testing.assert_close(delta(weaker), 0.25 * delta(tmp_path / "adapter"))
    assert delta(weaker).abs().max() > 0.01
    assert sorted(path.name for path in weaker.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    # one that is there stays
    assert scaled(tmp_path / "adapter", 0.5, tmp_path / "weaker") == weaker
    torch.testing.assert_close(delta(weaker), 0.25 * delta(tmp_path / "adapter"))


def test_a_change_that_is_not_proportional_is_not_scaled(tiny_model, tmp_path):
    base, _ = load_model(ModelSource(tiny_model, {}), "float32")
    add_adapter(base, Adapter(rank=2, peft={"use_dora": True})).save_pretrained(tmp_path / "adapter")
    with pytest.raises(FlextuneError, match=r"has more than the factors A and B, such as .*magnitude"):
        scaled(tmp_path / "adapter", 0.5, tmp_path / "weaker")
    assert not (tmp_path / "weaker").exists()
