import copy
import itertools

import pytest
import torch
from spectra import both_halves, by_autograd, phi, product_by_autograd
from torch import nn

from flextune import FlextuneError, FourierPenalty, UsageError
from flextune.tuning.factors import Factor
from flextune.tuning.forms import Reading

READINGS = [
    {"norm": norm, "reduction": reduction, "bins": bins}
    for norm, reduction, bins in itertools.product(
        ("ortho", "backward", "forward"), ("sum", "mean"), ("rfft", "fft", "parameters")
    )
]
RAMP = {"threshold": 0.7, "phi_low": 0.9, "phi_high": 0.2}
TOLERANCES = [(torch.float32, 1e-5), (torch.float64, 1e-10)]


def randn(*shape, dtype=torch.float64):
    return nn.Parameter(torch.randn(shape, dtype=dtype))


def distance(found, expected):
    return ((found - expected).norm() / expected.norm().clamp(min=1e-30)).item()


def agrees(penalty, parameters, expected, tolerance):
    """Value and gradient are those of the reference; what was in `.grad` stays in it."""
    gradients = torch.autograd.grad(expected, parameters)
    for parameter in parameters:
        parameter.grad = None
    penalty.add_gradient_(scale=2.0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert distance(parameter.grad, 2.0 * penalty.strength * gradient) < tolerance
    penalty.add_gradient_(scale=torch.tensor(2.0))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert distance(parameter.grad, 4.0 * penalty.strength * gradient) < tolerance
    assert distance(penalty.value(), expected) < tolerance


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: "-".join(reading.values()))
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_value_and_gradient_are_autograds(reading, dtype, tolerance):
    torch.manual_seed(0)
    shapes = [(1, 1), (1, 2), (2, 1), (3, 5), (4, 6), (8, 33), (3, 5)]
    parameters = [randn(*shape, dtype=dtype) for shape in shapes]
    penalty = FourierPenalty(parameters, strength=0.3, **RAMP, **reading)
    agrees(penalty, parameters, by_autograd(parameters, **RAMP, **reading), tolerance)


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: "-".join(reading.values()))
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_value_and_gradient_of_the_product_are_autograds(reading, dtype, tolerance):
    torch.manual_seed(0)
    shapes = [(1, 1, 1), (5, 2, 7), (6, 3, 8), (8, 2, 5), (2, 1, 2), (6, 3, 8)]
    pairs = [(randn(r, d_in, dtype=dtype), randn(d_out, r, dtype=dtype)) for d_out, r, d_in in shapes]
    penalty = FourierPenalty(pairs, strength=0.3, form="product", **RAMP, **reading)
    agrees(penalty, [p for pair in pairs for p in pair], product_by_autograd(pairs, **RAMP, **reading), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_the_controls_are_what_they_say(dtype, tolerance):
    torch.manual_seed(0)
    parameters = [randn(8, 33, dtype=dtype), randn(8, 33, dtype=dtype), randn(3, 5, dtype=dtype)]
    permuted = FourierPenalty(parameters, strength=0.3, form="permuted", seed=7)
    shuffled = []
    for parameter in parameters:
        order = torch.randperm(parameter.numel(), generator=torch.Generator().manual_seed(7))
        shuffled.append(parameter.flatten()[order])
    agrees(permuted, parameters, by_autograd(shuffled), tolerance)
    assert FourierPenalty(parameters, form="permuted", seed=8).value() != permuted.value()
    l2 = FourierPenalty(parameters, strength=0.3, form="l2")
    energies = [sum(1 - Reading().phi(p.numel())).item() / p.numel() * p.square().sum() for p in parameters]
    agrees(l2, parameters, sum(energies), tolerance)


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: "-".join(reading.values()))
def test_white_noise_costs_the_same_in_every_form_on_factors(reading):
    torch.manual_seed(0)
    noise = [randn(8, 4000), randn(8, 4001)]
    cost = {form: FourierPenalty(noise, form=form, **reading).value().item() for form in ("factors", "permuted", "l2")}
    assert cost["factors"] == pytest.approx(cost["l2"], rel=0.03)
    assert cost["permuted"] == pytest.approx(cost["l2"], rel=0.03)
    assert cost["factors"] != cost["permuted"]


def test_the_permutation_takes_neighbourhoods_away():
    smooth = [nn.Parameter(torch.sin(torch.arange(4096.0) / 100).view(8, 512))]
    cost = {form: FourierPenalty(smooth, form=form).value().item() for form in ("factors", "permuted", "l2")}
    assert cost["permuted"] == pytest.approx(cost["l2"], rel=0.1)
    assert cost["factors"] < 0.05 * cost["l2"]


def test_effective_strengths_are_what_white_noise_pays():
    torch.manual_seed(0)
    W = randn(8, 4096)
    for reading in READINGS:
        penalty = FourierPenalty([W], **reading)
        (strength,) = penalty.effective_strengths().values()
        paid = penalty.strength * penalty.value().item()
        assert paid == pytest.approx(0.5 * strength * W.square().sum().item(), rel=0.03)
    assert FourierPenalty([W]).effective_strengths() == {"parameter 0": pytest.approx(0.0135, rel=1e-3)}
    A, B = randn(64, 300), randn(200, 64)
    for reading in READINGS:
        penalty = FourierPenalty([(A, B)], form="product", **reading)
        (strength,) = penalty.effective_strengths().values()
        paid = penalty.strength * penalty.value().item()
        assert paid == pytest.approx(0.5 * strength * (B @ A).square().sum().item(), rel=0.03)


def test_only_the_product_is_unchanged_where_delta_is_unchanged():
    torch.manual_seed(0)
    A, B = randn(4, 50), randn(30, 4)
    before = {
        form: FourierPenalty([(A, B)] if form == "product" else [A, B], form=form).value()
        for form in ("product", "factors")
    }
    for _ in range(5):
        M = torch.randn(4, 4, dtype=torch.float64)
        pair = nn.Parameter(torch.linalg.solve(M, A)), nn.Parameter(B @ M)
        torch.testing.assert_close(pair[1] @ pair[0], B @ A)
        torch.testing.assert_close(FourierPenalty([pair], form="product").value(), before["product"])
        assert abs(FourierPenalty(pair).value() / before["factors"] - 1) > 0.05  # the documented limitation


def test_weights_are_the_papers():
    shares = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.9]
    weights = 1 - Reading().phi(2 * 999)
    assert [round(weights[int(share * 1000)].item(), 3) for share in shares] == [0, 0.018, 0.09, 0.18, 0.45, 0.9, 0.9]


@pytest.mark.parametrize("form", ["factors", "product"])
def test_a_constant_is_free_and_all_zeros_cost_nothing(form):
    for value in (3.0, 0.0):
        A, B = nn.Parameter(torch.full((4, 5), value)), nn.Parameter(torch.full((6, 4), value))
        penalty = FourierPenalty([(A, B)] if form == "product" else [A, B], form=form)
        penalty.add_gradient_()
        scale = max(value, 1) ** 4 * 30
        assert penalty.value().item() == pytest.approx(0, abs=1e-6 * scale)
        for parameter in (A, B):
            torch.testing.assert_close(parameter.grad, torch.zeros_like(parameter), rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["factors", "permuted", "l2", "product"])
def test_low_precision_is_transformed_in_float32(dtype, form):
    torch.manual_seed(0)
    A, B = torch.randn(8, 1100).to(dtype), torch.randn(900, 8).to(dtype)

    def penalty(dtype):
        pair = [nn.Parameter(A.to(dtype)), nn.Parameter(B.to(dtype))]
        found = FourierPenalty([pair] if form == "product" else pair, strength=1e-3, form=form)
        found.add_gradient_()
        return found.value(), [p.grad for p in pair]

    value, gradients = penalty(dtype)
    exact, exact_gradients = penalty(torch.float64)
    assert value.dtype == torch.float32
    assert distance(value.double(), exact) < 1e-5
    for gradient, expected in zip(gradients, exact_gradients, strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient, expected.to(dtype), rtol=0.01, atol=0.01 * expected.abs().max().item())


def test_the_batches_do_not_change_the_gradient(monkeypatch):
    torch.manual_seed(0)
    parameters = [randn(4, 6) for _ in range(7)]
    FourierPenalty(parameters).add_gradient_()
    whole = [p.grad for p in parameters]
    monkeypatch.setattr("flextune.tuning.fourier.CHUNK", {"cpu": 1, "cuda": 1})
    monkeypatch.setattr("flextune.tuning.fourier.ROWS", 1)
    for parameter in parameters:
        parameter.grad = None
    penalty = FourierPenalty(parameters)
    assert len(penalty._groups) == 7
    penalty.add_gradient_()
    assert all(distance(p.grad, g) < 1e-12 for p, g in zip(parameters, whole, strict=True))


def test_frozen_and_shared_factors_are_counted_once_or_not_at_all():
    torch.manual_seed(0)
    frozen, trained = randn(3, 5), randn(3, 5)
    frozen.requires_grad_(False)
    penalty = FourierPenalty([frozen, trained, trained])
    assert distance(penalty.value(), by_autograd([trained])) < 1e-12
    penalty.add_gradient_()
    assert frozen.grad is None
    A, B, C = randn(2, 5), randn(6, 2), randn(6, 2)  # two layers that share their A; one B frozen
    C.requires_grad_(False)
    penalty = FourierPenalty([(A, B), (A, C)], form="product", strength=1.0)
    gradients = torch.autograd.grad(product_by_autograd([(A, B), (A, C)]), [A, B])
    penalty.add_gradient_()
    assert C.grad is None
    for parameter, gradient in zip((A, B), gradients, strict=True):
        assert distance(parameter.grad, gradient) < 1e-10


def test_what_is_frozen_later_is_left_alone():
    torch.manual_seed(0)
    parameters = [randn(3, 5) for _ in range(4)]
    penalty = FourierPenalty(parameters)
    for frozen in (0, 2):
        parameters[frozen].requires_grad_(False)
    penalty.add_gradient_()
    assert [parameter.grad is None for parameter in parameters] == [True, False, True, False]


def test_dtypes_may_be_mixed_and_change():
    torch.manual_seed(0)
    dtypes = (torch.float32, torch.float64, torch.bfloat16)
    parameters = [nn.Parameter(torch.randn(4, 6, dtype=torch.float64).to(dtype)) for dtype in dtypes]
    penalty = FourierPenalty(parameters)
    exact = by_autograd([p.detach().double() for p in parameters])
    assert distance(penalty.value().double(), exact) < 1e-6
    penalty.add_gradient_()
    assert [p.grad.dtype for p in parameters] == list(dtypes)
    A, B = randn(2, 6, dtype=torch.float64), randn(5, 2, dtype=torch.float32)
    product = FourierPenalty([(A, B)], form="product")
    assert distance(product.value(), product_by_autograd([(A, B.double())])) < 1e-10
    for form in ("factors", "permuted"):
        layer = nn.Linear(6, 4, bias=False)
        penalty = FourierPenalty([layer.weight], form=form)
        before = penalty.value()
        layer.double()
        torch.testing.assert_close(penalty.value(), before.double(), rtol=1e-6, atol=0)


def test_a_model_without_values_may_get_them_later():
    layer = nn.Linear(6, 4, bias=False, device="meta")
    factor = Factor("weight", lambda: layer.weight, layer.weight.shape)
    assert factor.not_finite() is None
    layer.to_empty(device="cpu")
    nn.init.normal_(layer.weight)
    torch.testing.assert_close(factor.whole(), layer.weight.detach())


def test_float16_neither_overflows_nor_loses_the_gradient():
    torch.manual_seed(0)
    for options, scale in (
        ({}, 65536.0),
        ({"norm": "backward", "strength": 1e-6}, 1.0),
        ({"norm": "forward", "strength": 1e3}, 1.0),
    ):
        W = nn.Parameter(torch.randn(8, 1100).half())
        FourierPenalty([W], **options).add_gradient_(scale)
        exact = nn.Parameter(W.detach().double())
        FourierPenalty([exact], **options).add_gradient_(scale)
        assert distance(W.grad.double(), exact.grad) < 1e-3


def test_the_product_of_a_smooth_delta_does_not_cancel():
    torch.manual_seed(0)
    A, B = (1 + 0.01 * torch.randn(shape, dtype=torch.float64) for shape in ((8, 4096), (4096, 8)))
    exact = FourierPenalty([(nn.Parameter(A), nn.Parameter(B))], form="product").value()
    found = FourierPenalty([(nn.Parameter(A.float()), nn.Parameter(B.float()))], form="product").value()
    assert distance(found.double(), exact) < 1e-4
    ones = [(nn.Parameter(torch.ones(8, 4097)), nn.Parameter(torch.ones(4097, 8))) for _ in range(3)]
    assert all(abs(FourierPenalty([pair], form="product").value()) < 1e-3 for pair in ones)  # of 1e9


def test_a_copy_is_a_copy():
    parameter = randn(3, 5)
    copied, penalty = copy.deepcopy((parameter, FourierPenalty([parameter])))
    penalty.add_gradient_()
    assert parameter.grad is None
    assert copied.grad is not None


def test_batches_take_rows_together_and_a_third_of_the_memory_at_most(monkeypatch):
    parameters = [randn(4, 6) for _ in range(60)]
    monkeypatch.setattr("flextune.tuning.fourier.CHUNK", {"cpu": 1, "cuda": 1})
    assert [len(group.rows) for group in FourierPenalty(parameters)._groups] == [7, 8, 7, 8, 7, 8, 7, 8]
    monkeypatch.setattr("flextune.tuning.fourier.CHUNK", {"cpu": 10**9, "cuda": 1})
    assert [len(group.rows) for group in FourierPenalty(parameters)._groups] == [20, 20, 20]


def test_white_noise_in_every_cell_of_a_small_product():
    for bins in ("rfft", "fft", "parameters"):
        (strength,) = (
            FourierPenalty([(randn(2, 7), randn(6, 2))], 1.0, form="product", bins=bins).effective_strengths().values()
        )
        along_out, along_in = both_halves(phi(6, 0.5, 1, 0.1, bins), 6), phi(7, 0.5, 1, 0.1, bins)
        if bins == "fft":
            along_in = both_halves(along_in, 7)
        assert strength == pytest.approx(2 * (1 - along_out[:, None] * along_in).sum().item() / 42, rel=1e-12)


def test_the_optimizer_of_the_decoupled_form_must_have_the_factors():
    optimizer = torch.optim.SGD([randn(2, 2)], lr=0.1)
    with pytest.raises(UsageError, match="optimizer: it does not have parameter 0"):
        FourierPenalty([randn(2, 2)]).decay_(optimizer)


@pytest.mark.parametrize(
    ("given", "form", "found"),
    [
        ("lora", "factors", "parameter 0 is a str"),
        (nn.Linear(2, 2).named_parameters(), "factors", "parameter 0 is a tuple"),
        ([torch.arange(4)], "factors", "parameter 0 is a tensor of torch.int64, 4 entries"),
        ([2 * nn.Parameter(torch.ones(2))], "factors", "2 entries, computed"),
        ([nn.Parameter(torch.ones(0))], "factors", "0 entries"),
        ([], "factors", "no trainable LoRA factors to penalise in this list"),
        (
            [nn.Parameter(torch.ones(2, 2))],
            "product",
            r"item 0 is a Parameter; form = 'product' expects pairs \(A, B\)",
        ),
        ([(nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 3)))], "product", "ΔW of B 0 and A 0 is not B A"),
    ],
)
def test_what_is_no_factor_is_named(given, form, found):
    with pytest.raises(UsageError, match=found):
        FourierPenalty(given, form=form)


def test_decoupled_it_shrinks_the_factors_by_each_ones_learning_rate():
    torch.manual_seed(0)
    first, second = randn(3, 5), randn(3, 5)
    gradients = torch.autograd.grad(by_autograd([first, second]), [first, second])
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.2}])
    before = first.detach().clone(), second.detach().clone()
    FourierPenalty([first, second], strength=0.3).decay_(optimizer, scale=0.5)
    for parameter, old, gradient, rate in zip((first, second), before, gradients, (0.1, 0.2), strict=True):
        torch.testing.assert_close(parameter, old - 0.5 * rate * 0.3 * gradient)
        assert parameter.grad is None


def test_fp16_with_its_scaler_gives_the_gradient_of_float32():
    torch.manual_seed(0)
    W = nn.Parameter(torch.randn(4, 64))
    x = torch.randn(64)
    ((W @ x).square().sum() + 0.3 * by_autograd([W])).backward()
    expected, W.grad = W.grad, None
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD([W], lr=0.0)
    scaler.scale((W @ x).square().sum()).backward()
    FourierPenalty([W], strength=0.3).add_gradient_(scale=scaler.scale(torch.ones(())))
    scaler.unscale_(optimizer)
    assert distance(W.grad, expected) < 1e-6


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("strength", -1),
        ("strength", float("nan")),
        ("strength", float("inf")),
        ("strength", "0.1"),
        ("threshold", 0),
        ("threshold", 1.5),
        ("threshold", float("nan")),
        ("phi_low", 1.2),
        ("phi_high", -0.1),
        ("norm", "orthonormal"),
        ("reduction", "max"),
        ("bins", "all"),
        ("form", "delta"),
    ],
)
def test_wrong_arguments_are_named(argument, value):
    with pytest.raises(UsageError, match=rf"^{argument} = {value!r}: expected"):
        FourierPenalty([nn.Parameter(torch.ones(2))], **{argument: value})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named_at_the_start_and_when_it_is_asked_for(bad):
    parameter = nn.Parameter(torch.ones(3, 4))
    with torch.no_grad():
        parameter[1, 2] = bad
    with pytest.raises(UsageError, match=rf"model_or_parameters: parameter 1 holds {bad} at \(1, 2\); expected"):
        FourierPenalty([nn.Parameter(torch.ones(3, 4)), parameter])
    with torch.no_grad():
        parameter[1, 2] = 1
    penalty = FourierPenalty([parameter])
    penalty.check_finite()
    with torch.no_grad():
        parameter[1, 2] = bad
    with pytest.raises(FlextuneError, match=rf"parameter 0 holds {bad} at \(1, 2\): lower the learning rate"):
        penalty.check_finite()


def test_a_part_of_a_factor_is_refused():
    parameter = nn.Parameter(torch.ones(4, 6))
    penalty = FourierPenalty([parameter])
    parameter.data = torch.ones(12)  # what FSDP1 leaves of it on one of two processes
    with pytest.raises(UsageError, match="parameter 0: this process holds only a part"):
        penalty.add_gradient_()
    zero = nn.Parameter(torch.ones(4, 6))
    zero.ds_id = 3  # what DeepSpeed's ZeRO-3 marks its parameters with
    with pytest.raises(UsageError, match="DeepSpeed ZeRO-3"):
        FourierPenalty([zero])


def test_it_says_what_its_strength_amounts_to():
    text = str(FourierPenalty([nn.Parameter(torch.ones(8, 64)), nn.Parameter(torch.ones(64, 8))], norm="backward"))
    assert "λ = 0.02" in text
    assert "norm backward" in text
    assert "6.9" in text
    assert "8×64" in text


def test_nothing_of_it_is_state():
    parameter = nn.Parameter(torch.ones(3, 4))
    penalty = FourierPenalty([parameter])
    assert not hasattr(penalty, "state_dict")
    assert not penalty.value().requires_grad


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["factors", "product", "permuted", "l2"])
def test_a_gpu_is_never_waited_for(form):
    torch.manual_seed(0)
    A, B = (nn.Parameter(torch.randn(shape, device="cuda")) for shape in ((8, 1100), (900, 8)))
    penalty = FourierPenalty([(A, B)] if form == "product" else [A, B], form=form)
    scale = torch.ones((), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        penalty.add_gradient_()
        penalty.add_gradient_(scale)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(A.grad).all()
