import copy

import pytest
import torch

from flextune import SophiaG, UsageError


def parameters(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 7), (5,), (3, 2, 2), (1,)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def train(optimizer, steps, start=0, refresh=(0, 2, 3)):
    """Steps along made-up gradients and curvatures, the same for each step's number."""
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        for p in optimizer.parameters():
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        if step in refresh:
            optimizer.update_curvature([torch.rand(p.shape, generator=generator) ** 4 for p in optimizer.parameters()])
        optimizer.step()


def test_two_parameters_by_hand():
    theta = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = SophiaG([theta], lr=0.1, betas=(0.9, 0.99), gamma=0.5, weight_decay=0.2)

    def step(gradient):
        theta.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        return theta.tolist()

    optimizer.update_curvature([torch.tensor([4.0, 0.01], dtype=torch.float64)])
    # m̂ = g, ĥ = the estimate: 0.5 / (0.5 · 4) = 0.25; 0.1 / (0.5 · 0.01) = 20, clipped to 1; decay 1 − 0.1 · 0.2 = 0.98
    assert step([0.5, 0.1]) == pytest.approx([0.98 - 0.1 * 0.25, -2 * 0.98 - 0.1], rel=1e-12)
    # m = 0.9 · 0.05 − 0.1 = −0.055, m̂ = −0.055 / 0.19; the second: m = 0.9 · 0.01 − 0.02 = −0.011, still clipped, to −1
    assert step([-1.0, -0.2]) == pytest.approx(
        [0.955 * 0.98 + 0.1 * 0.055 / 0.19 / (0.5 * 4), -2.06 * 0.98 + 0.1], rel=1e-12
    )
    # h = 0.99 · 0.01 · 4 + 0.01 · 2 over 1 − 0.99²; the second coordinate: no curvature left to speak of
    optimizer.update_curvature([torch.tensor([2.0, 0.0], dtype=torch.float64)])
    before = theta.tolist()
    m, h = (0.9 * -0.055) / (1 - 0.9**3), (0.99 * 0.04 + 0.02) / (1 - 0.99**2)
    found = step([0.0, -5.0])
    assert found == pytest.approx([before[0] * 0.98 - 0.1 * m / (0.5 * h), before[1] * 0.98 + 0.1], rel=1e-12)


def test_without_an_estimate_steps_are_signs():
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.tensor([3.0, -1e-6, 0.0])
    SophiaG([p], lr=0.1).step()
    assert p.tolist() == pytest.approx([-0.1, 0.1, 0.0])


@pytest.mark.parametrize("gamma", [0.7, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_foreach_equals_the_loop(dtype, gamma):
    optimizers = []
    for foreach in (True, False):
        optimizer = SophiaG(parameters(dtype), lr=0.05, gamma=gamma, weight_decay=0.1, foreach=foreach)
        train(optimizer, 6)
        optimizers.append(optimizer)
    one, other = optimizers
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.gamma == other.gamma
    assert one.unclipped_share() == other.unclipped_share()


def test_groups_have_their_own_settings_and_may_be_empty():
    first, second = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    optimizer = SophiaG([{"params": [first]}, {"params": []}, {"params": [second], "lr": 0.5}], lr=0.1)
    for p in (first, second):
        p.grad = torch.ones(2)
    optimizer.update_curvature([None, torch.zeros(2)])
    optimizer.step()
    assert first.tolist() == pytest.approx([-0.1, -0.1])
    assert second.tolist() == pytest.approx([-0.5, -0.5])


def test_parameters_without_a_gradient_stay():
    still, moving = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = SophiaG([still, moving], lr=0.1, weight_decay=0.5)
    moving.grad = torch.ones(2)
    optimizer.step()
    assert still.tolist() == [1.0, 1.0]
    assert still not in optimizer.state


def test_no_estimate_is_one_of_zero():
    p, other = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = SophiaG([p, other], betas=(0.9, 0.5))
    optimizer.update_curvature([torch.tensor([8.0]), None])
    optimizer.update_curvature([None, torch.tensor([8.0])])
    assert optimizer.state[p]["curvature"].item() == 2.0
    assert optimizer.state[other]["curvature"].item() == 4.0


def test_gamma_is_chosen_by_what_has_curvature():
    """Beside B = 0 the factors A, most of all coordinates, move without curvature: they must not decide."""
    a, b = torch.zeros(8, 3000, requires_grad=True), torch.zeros(100, 8, requires_grad=True)
    optimizer = SophiaG([a, b], unclipped=0.3)
    generator = torch.Generator().manual_seed(0)
    for small in (0.0, 1e-12):
        for p in (a, b):
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.update_curvature([torch.full_like(a, small), torch.rand(b.shape, generator=generator)])
        optimizer.step()
        assert optimizer.gamma < 100
    assert optimizer.unclipped_share() == pytest.approx(0.3, abs=0.02)
    before = b.detach().clone()
    optimizer.step()
    assert (b - before).abs().max() > 1e-5  # B goes on


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_goes_on_bit_for_bit(dtype, tmp_path):
    undisturbed = SophiaG(parameters(dtype), lr=0.05, calibration_steps=3)
    train(undisturbed, 6)
    first = SophiaG(parameters(dtype), lr=0.05, calibration_steps=3)
    train(first, 3)
    torch.save([first.state_dict(), first.parameters()], tmp_path / "saved.pt")
    state, saved = torch.load(tmp_path / "saved.pt")
    again = SophiaG(saved, lr=0.9, gamma=3.0)
    again.load_state_dict(copy.deepcopy(state))
    train(again, 3, start=3)
    assert again.gamma == undisturbed.gamma
    for mine, theirs in zip(again.parameters(), undisturbed.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        for name in ("momentum", "curvature"):
            assert again.state[mine][name].dtype == torch.float32
            assert torch.equal(again.state[mine][name], undisturbed.state[theirs][name])


@pytest.mark.parametrize("target", [0.1, 0.3, 0.45])
def test_gamma_leaves_the_share_unclipped_that_was_asked_for(target):
    p = torch.zeros(200, 500, requires_grad=True)
    optimizer = SophiaG([p], unclipped=target, calibration_steps=2)
    assert optimizer.gamma is None
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        p.grad = torch.randn(p.shape, generator=generator)
        p.grad[:60] = 0  # a part that does not move, and is not counted
        optimizer.update_curvature([torch.rand(p.shape, generator=generator) ** 3])
        before = optimizer.gamma
        optimizer.step()
        if step < 2:
            assert optimizer.unclipped_share() == pytest.approx(target, abs=0.01)
            assert optimizer.gamma != before
    assert optimizer.gamma == before  # calibration is over


def test_gamma_that_is_given_is_kept():
    optimizer = SophiaG(parameters(), gamma=0.05)
    train(optimizer, 3)
    assert optimizer.gamma == 0.05


def test_figures_count_what_was_clipped():
    p = torch.zeros(4, requires_grad=True)
    optimizer = SophiaG([p], gamma=1.0)
    p.grad = torch.tensor([1.0, 1.0, 1.0, 0.0])
    optimizer.update_curvature([torch.tensor([4.0, 3.0, 0.5, 0.0])])
    optimizer.step()
    assert optimizer.unclipped_share() == pytest.approx(2 / 3)  # the last does not move
    assert optimizer.curvature_norm() == pytest.approx((16 + 9 + 0.25) ** 0.5)
    optimizer.zero_grad()
    assert optimizer.unclipped_share() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1.0}, r"lr = -1\.0: expected a number at least 0"),
        ({"betas": (1.0, 0.9)}, r"betas\[0\] = 1\.0: .* from 0 to below 1"),
        ({"betas": (0.9, -0.1)}, r"betas\[1\] = -0\.1"),
        ({"gamma": 0.0}, r"gamma = 0\.0: .* above 0, or None to choose it"),
        ({"unclipped": 0.5}, r"unclipped = 0\.5: .* between 0 and 0\.5"),
        ({"eps": 0.0}, r"eps = 0\.0"),
        ({"weight_decay": -0.1}, r"weight_decay = -0\.1"),
        ({"calibration_steps": -1}, r"calibration_steps = -1"),
    ],
)
def test_wrong_arguments_name_the_value(arguments, message):
    with pytest.raises(UsageError, match=message):
        SophiaG([torch.zeros(1, requires_grad=True)], **arguments)


def test_estimates_have_to_be_as_many_as_parameters():
    with pytest.raises(UsageError, match="2 estimates for 1 parameters"):
        SophiaG([torch.zeros(1, requires_grad=True)]).update_curvature([None, None])
