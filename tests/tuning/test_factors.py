from collections import OrderedDict

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from flextune import FourierPenalty, UsageError
from flextune.tuning.factors import lora_pairs


def model_with(tiny_model, **config):
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    return get_peft_model(base, LoraConfig(**{"r": 2, "target_modules": ["gate_proj", "q_proj"], **config}))


def shapes(model):
    return sorted((tuple(pair.A.shape), tuple(pair.B.shape)) for pair in lora_pairs(model))


def test_factors_are_found_by_pefts_structure_and_not_by_name(tiny_model):
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(UsageError, match="no trainable LoRA factors"):
        FourierPenalty(base)
    base.register_parameter("lora_A_that_is_none", nn.Parameter(torch.ones(3, 3)))
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["gate_proj", "q_proj"]))
    assert shapes(model) == 2 * [((2, 32), (32, 2))] + 2 * [((2, 32), (48, 2))]
    names = {name for name, _ in model.named_parameters() if name.endswith("default.weight")}
    factors = FourierPenalty(model).factors
    assert {factor.name for factor in factors} == names
    assert all(factor.parameter is model.get_parameter(factor.name) for factor in factors)


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"lora_bias": True, "target_modules": ["gate_proj", "q_proj"]},
        {"use_rslora": True},
    ],
    ids=lambda config: next(iter(config)),
)
def test_what_peft_adds_beside_the_factors_is_none(tiny_model, config):
    model = model_with(tiny_model, **config)
    extra = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and not name.endswith(("_A.default.weight", "_B.default.weight"))
    ]
    assert bool(extra) == ("use_rslora" not in config)
    assert shapes(model) == shapes(model_with(tiny_model))


def test_rank_patterns_embeddings_and_several_adapters(tiny_model):
    model = model_with(tiny_model, target_modules=["up_proj", "embed_tokens"], rank_pattern={"layers.1.*up_proj": 5})
    vocabulary = model.get_input_embeddings().weight.shape[0]
    assert shapes(model) == [((2, 32), (48, 2)), ((2, vocabulary), (32, 2)), ((5, 32), (48, 5))]
    names = [factor.name for factor in FourierPenalty(model).factors]
    assert "base_model.model.model.embed_tokens.lora_embedding_A.default" in names
    model.add_adapter("second", LoraConfig(r=3, target_modules=["up_proj"]))
    assert len(shapes(model)) == 5
    assert len(FourierPenalty(model).factors) == 6  # the first adapter is the one in training
    model.base_model.set_adapter(["default", "second"])
    assert len(FourierPenalty(model).factors) == 10
    model.set_adapter("second")
    assert {min(factor.shape) for factor in FourierPenalty(model).factors} == {3}


def test_convolutions_and_frozen_factors():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 6, kernel_size=3)

    torch.manual_seed(0)
    model = get_peft_model(Network(), LoraConfig(r=2, target_modules=["first"]))
    (pair,) = lora_pairs(model)
    assert (pair.A.shape, pair.B.shape) == ((2, 3, 3, 3), (6, 2, 1, 1))
    nn.init.normal_(pair.B.parameter)
    for form in ("factors", "product", "permuted", "l2"):
        FourierPenalty(model, form=form).add_gradient_()
        assert pair.A.parameter.grad.abs().sum() > 0
        assert pair.B.parameter.grad.shape == (6, 2, 1, 1)
        model.zero_grad()
    pair.A.parameter.requires_grad_(False)
    for form in ("factors", "product"):
        FourierPenalty(model, form=form).add_gradient_()
        assert pair.A.parameter.grad is None


def test_tied_layers_count_once():
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    modules = ["embed_tokens", "lm_head"]
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=2, target_modules=modules, ensure_weight_tying=True))
    pairs = list(lora_pairs(model))
    assert len(pairs) == 2
    for pair in pairs:
        nn.init.normal_(pair.B.parameter)
    values = {factor.parameter.data_ptr(): factor for pair in pairs for factor in (pair.A, pair.B)}
    assert len(values) == 2
    penalty = FourierPenalty(model)
    assert len(penalty.factors) == 2
    once = sum(FourierPenalty([nn.Parameter(factor.whole())]).value() for factor in values.values())
    torch.testing.assert_close(penalty.value(), once, rtol=0.01, atol=0)


def test_experts_in_one_parameter_have_factors_but_no_product():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 8, 6))

        def forward(self, x):
            return torch.einsum("bi,eio->beo", x, self.weight)

    model = get_peft_model(
        nn.Sequential(OrderedDict(experts=Experts())), LoraConfig(r=2, target_parameters=["experts.weight"])
    )
    assert shapes(model) == [((6, 6), (8, 6))]  # rank 2 for each of three experts
    assert len(FourierPenalty(model).factors) == 2
    with pytest.raises(UsageError, match=r"is not B A \(shapes"):
        FourierPenalty(model, form="product")


def test_the_product_is_refused_where_delta_is_no_product(tiny_model):
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = AdaLoraConfig(target_modules=["q_proj"], init_r=4, target_r=2, total_step=10, tinit=1, tfinal=5)
    model = get_peft_model(base, config)
    with pytest.raises(UsageError, match=r"form = 'product': ΔW of .*q_proj.lora_B.default .* is not B A"):
        FourierPenalty(model, form="product")
    assert len(FourierPenalty(model).factors) == 4


def test_a_model_may_move_or_change_its_parameters_after_the_penalty_is_made(tiny_model):
    model = model_with(tiny_model)
    penalty = FourierPenalty(model)
    before = penalty.value()
    for pair in lora_pairs(model):  # as FSDP2 does: another parameter object in the same place
        layer = pair.A.get.args[0]
        layer.weight = nn.Parameter(2 * layer.weight.detach())
    torch.testing.assert_close(penalty.value(), 4 * before)
    penalty.add_gradient_()
    assert all(pair.A.parameter.grad is not None for pair in lora_pairs(model))
