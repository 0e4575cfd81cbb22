import pytest
import torch
from spectra import by_autograd
from torch import nn

from flextune import FourierPenalty, UsageError
from flextune.tuning.fourier import bin_weights, lora_factors


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 5), (4, 6), (8, 33)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_value_and_gradient_are_autograds(shape, dtype, tolerance):
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, dtype=dtype)) for _ in range(3)]
    penalty = FourierPenalty(parameters, strength=0.3, threshold=0.7, phi_low=0.9, phi_high=0.2)
    expected = by_autograd(parameters, 0.7, 0.9, 0.2)
    torch.testing.assert_close(penalty.value(), expected.detach(), rtol=tolerance, atol=0)
    gradients = torch.autograd.grad(expected, parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    penalty.add_gradient_(scale=2.0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, 1 + 2.0 * 0.3 * gradient, rtol=10 * tolerance, atol=tolerance)


def test_weights_are_the_papers():
    weights = bin_weights(2 * 999)
    shares = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.9]
    assert [round(weights[int(share * 1000)].item(), 3) for share in shares] == [0, 0.018, 0.09, 0.18, 0.45, 0.9, 0.9]


def test_a_constant_factor_is_free_and_all_zeros_cost_nothing():
    for w in (torch.full((4, 5), 3.0), torch.zeros(4, 5)):
        parameter = nn.Parameter(w)
        penalty = FourierPenalty([parameter])
        penalty.add_gradient_()
        assert penalty.value().item() == pytest.approx(0, abs=1e-9)
        torch.testing.assert_close(parameter.grad, torch.zeros(4, 5), rtol=0, atol=1e-6)


def test_low_precision_is_transformed_in_float32():
    torch.manual_seed(0)
    w = torch.randn(8, 11008).bfloat16()
    exact = FourierPenalty([nn.Parameter(w.double())]).value()
    torch.testing.assert_close(FourierPenalty([nn.Parameter(w)]).value().double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("strength", -1), ("threshold", 0), ("threshold", 1.5), ("phi_low", 1.2), ("phi_high", -0.1)],
)
def test_wrong_arguments_are_named(argument, value):
    with pytest.raises(UsageError, match=f"{argument} = {value}"):
        FourierPenalty([nn.Parameter(torch.ones(2))], **{argument: value})


def test_factors_are_found_by_pefts_structure(tiny_model):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(UsageError, match="no trainable LoRA factors"):
        FourierPenalty(base)
    base.register_parameter("lora_A_that_is_none", nn.Parameter(torch.ones(3)))
    config = LoraConfig(r=2, target_modules=["gate_proj", "q_proj"], modules_to_save=["lm_head"], use_dora=True)
    model = get_peft_model(base, config)
    factors = list(lora_factors(model))
    # two layers, two modules, A and B; no head, no DoRA magnitude, no namesake
    assert len(factors) == 8
    assert {2} == {min(factor.shape) for factor in factors}
