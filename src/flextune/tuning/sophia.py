"""Sophia-G, an optimizer that divides its momentum by the curvature of the loss, made for LoRA's short runs.

    optimizer = SophiaG(model.parameters(), lr=1e-4)
    for step, batch in enumerate(batches):
        model(**batch).loss.backward()
        if refresh_is_due(step):
            refresh_curvature(optimizer, model, batch)
        optimizer.step()
        optimizer.zero_grad()

`flextune.tuning.curvature` estimates the curvature; `SophiaCallback` there does both lines in a `transformers.Trainer`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from flextune.errors import UsageError

OCTAVES, PER_OCTAVE = 64, 64
"""The histogram that γ is read from goes from 2^-64 to 2^64, in steps of one percent."""


class SophiaG(Optimizer):
    """Sophia (Liu et al. 2023, arXiv 2305.14342) in the form of FLeX's eq. 2.

        m ← β1 m + (1 − β1) g                           every step
        h ← β2 h + (1 − β2) ĥ                           whenever `update_curvature` is called
        θ ← θ − η · weight_decay · θ
        θ ← θ − η · clip(m̂ / max{γ ĥ, ε}, −1, 1)        m̂ and ĥ are m and h over 1 − β^(number of their updates)

    No coordinate moves by more than η in a step. One whose curvature is large moves by η·m̂ / (γ·ĥ); the others, those
    without an estimate among them, by η in the direction of their sign.

    | FLeX eq. 2 | Sophia's paper | Liuhong99/Sophia      | here                                            |
    |------------|----------------|-----------------------|-------------------------------------------------|
    | η          | η              | lr                    | lr                                              |
    | γ          | γ              | rho                   | gamma; scales the curvature, the clip is at 1   |
    | h          | h              | hessian · bs          | `curvature`; the labels' number is in the estimate |
    | ε          | ε, 1e-12       | 1e-15, added          | eps, the least denominator                      |
    | (absent)   | λ              | weight_decay          | weight_decay                                    |

    Two things differ from the original code. Both averages are corrected for their start at zero, since a run over LoRA
    factors may see 30 estimates where β2 = 0.99 needs 100. And γ, which decides what share of the coordinates is not
    clipped, can be chosen from the data: 0.05, made for pre-training, clips nearly all of a LoRA's (docs/training.md).

    Args:
        params: Parameters or groups; of a model under FSDP2 the sharded ones. Groups may be empty.
        lr: Learning rate η.
        betas: β1 of the momentum and β2 of the curvature.
        gamma: γ; None chooses it.
        unclipped: The share of the coordinates that γ is chosen for, at each estimate in the first `calibration_steps`
            steps; γ stays what it was at the last of these. Those with momentum and curvature count, and every
            parameter weighs the same. Below a half, so that the factors B alone cover it: beside B near its start of
            zero, the curvature of A is next to nothing.
        eps: ε.
        weight_decay: Decoupled, as in AdamW.
        calibration_steps: See `unclipped`.
        foreach: One kernel for all parameters at once; False takes them one by one, for comparison.

    The averages are float32 for parameters of 16 bits too, and `load_state_dict` gives them back bit for bit.

    Raises `UsageError` for an argument outside of its range.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.965, 0.99),
        gamma: float | None = None,
        unclipped: float = 0.3,
        eps: float = 1e-12,
        weight_decay: float = 0.0,
        *,
        calibration_steps: int = 50,
        foreach: bool = True,
    ):
        for name, value, fits, expected in (
            ("lr", lr, lr >= 0, "at least 0"),
            ("betas[0]", betas[0], 0 <= betas[0] < 1, "from 0 to below 1"),
            ("betas[1]", betas[1], 0 <= betas[1] < 1, "from 0 to below 1"),
            ("gamma", gamma, gamma is None or gamma > 0, "above 0, or None to choose it"),
            ("unclipped", unclipped, 0 < unclipped < 0.5, "between 0 and 0.5"),
            ("eps", eps, eps > 0, "above 0"),
            ("weight_decay", weight_decay, weight_decay >= 0, "at least 0"),
            ("calibration_steps", calibration_steps, calibration_steps >= 0, "at least 0"),
        ):
            if not fits:
                raise UsageError(f"SophiaG: {name} = {value}: expected a number {expected}")
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "gamma": gamma,
            "unclipped": unclipped,
            "eps": eps,
            "weight_decay": weight_decay,
            "calibration_steps": calibration_steps,
            "foreach": foreach,
            "steps": 0,
            "refreshes": 0,
            "calibrated_gamma": None,
            "fresh": False,  # there is an estimate that γ has not been chosen for yet
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step along the gradients that stand in the parameters; those without one stay where they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["steps"] += 1
            rows = list(self._rows(group))
            for part in _parts(rows, group["foreach"]):
                momenta = [_local(self.state[p]["momentum"]) for p in part]
                gradients = [_local(p.grad).to(m.dtype) for p, m in zip(part, momenta, strict=True)]
                torch._foreach_lerp_(momenta, gradients, 1 - group["betas"][0])
        self._calibrate()
        for group in self.param_groups:
            for part in _parts(list(self._rows(group)), group["foreach"]):
                self._move(group, part)
        return loss

    def _move(self, group: dict[str, Any], part: list[Tensor]) -> None:
        parameters = [_local(p.data) for p in part]
        correction_m, scale_h = _corrections(group)
        # c·max{γĥ, ε} in one pass over h, so that m needs no pass of its own for its correction
        denominators = torch._foreach_mul([_local(self.state[p]["curvature"]) for p in part], _gamma(group) * scale_h)
        torch._foreach_clamp_min_(denominators, group["eps"])
        torch._foreach_mul_(denominators, correction_m)
        updates = torch._foreach_div([_local(self.state[p]["momentum"]) for p in part], denominators)
        torch._foreach_clamp_min_(updates, -1.0)
        torch._foreach_clamp_max_(updates, 1.0)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    @torch.no_grad()
    def update_curvature(self, estimates: Sequence[Tensor | None]) -> None:
        """Take an estimate of the curvature's diagonal into its average.

        Args:
            estimates: One of the shape and sharding of each parameter, in the order of `parameters()`; None is zero.

        Raises `UsageError` if their number is not that of the parameters.
        """
        parameters = self.parameters()
        if len(estimates) != len(parameters):
            raise UsageError(
                f"SophiaG.update_curvature: {len(estimates)} estimates for {len(parameters)} parameters; pass one for "
                "each, in the order of parameters()"
            )
        given = dict(zip(parameters, estimates, strict=True))
        for group in self.param_groups:
            group["refreshes"] += 1
            group["fresh"] = True
            for p in group["params"]:
                self._begin(p)
            for part in _parts(group["params"], group["foreach"]):
                averages = [_local(self.state[p]["curvature"]) for p in part]
                torch._foreach_mul_(averages, group["betas"][1])
                pairs = [
                    (h, _local(given[p]).to(h.dtype))
                    for p, h in zip(part, averages, strict=True)
                    if given[p] is not None
                ]
                if pairs:
                    torch._foreach_add_([h for h, _ in pairs], [new for _, new in pairs], alpha=1 - group["betas"][1])

    def parameters(self) -> list[Tensor]:
        """All parameters, group after group."""
        return [p for group in self.param_groups for p in group["params"]]

    @property
    def steps(self) -> int:
        """Steps taken."""
        return int(self.param_groups[0]["steps"])

    @property
    def refreshes(self) -> int:
        """Estimates of the curvature so far."""
        return int(self.param_groups[0]["refreshes"])

    @property
    def gamma(self) -> float | None:
        """γ as it is now; None if it is to be chosen and there was no estimate yet."""
        group = self.param_groups[0]
        found = group["calibrated_gamma"] if group["gamma"] is None else group["gamma"]
        return None if found is None else float(found)

    @torch.no_grad()
    def unclipped_share(self) -> float:
        """The share of the coordinates that the last step did not clip; waits for the device.

        Those with momentum and curvature count, and every parameter weighs the same. Sophia's paper calls it the win
        rate and recommends 0.1 to 0.5.
        """
        found = []
        for group in self.param_groups:
            correction_m, scale_h = _corrections(group)
            for p in self._known(group):
                m, h = _local(self.state[p]["momentum"]), _local(self.state[p]["curvature"])
                bound = (h * (_gamma(group) * scale_h)).clamp_min_(group["eps"]).mul_(correction_m)
                counts = (m != 0) & (h != 0)
                found.append(torch.stack([((m.abs() < bound) & counts).sum(), counts.sum()]))
        if not found:
            return 0.0
        shares = [unclipped / all_ for unclipped, all_ in self._over_shards(torch.stack(found)).tolist() if all_]
        return sum(shares) / len(shares) if shares else 0.0

    @torch.no_grad()
    def curvature_norm(self) -> float:
        """The root of the sum of squares of ĥ; waits for the device."""
        squares = [
            (_local(self.state[p]["curvature"]) * _corrections(group)[1]).square().sum()
            for group in self.param_groups
            for p in self._known(group)
        ]
        return float(self._over_shards(torch.stack(squares)).sum().sqrt()) if squares else 0.0

    def _calibrate(self) -> None:
        """Choose γ after a fresh estimate: the quantile of |m̂| / ĥ below which the share `unclipped` lies."""
        due = [
            g for g in self.param_groups if g["fresh"] and g["gamma"] is None and g["steps"] <= g["calibration_steps"]
        ]
        found = []
        for group in due:
            correction_m, scale_h = _corrections(group)
            for p in self._known(group):
                m, h = _local(self.state[p]["momentum"]), _local(self.state[p]["curvature"])
                # 0/0 is nan, 0/h −inf, m/0 inf: what does not move or has no curvature (yet) is not counted
                octaves = (m.abs() / h).mul_(1 / (correction_m * scale_h)).log2_()
                counts = torch.histc(octaves.float(), bins=2 * OCTAVES * PER_OCTAVE, min=-OCTAVES, max=OCTAVES)
                found.append(counts / p.numel())
        if found:
            cumulative = self._over_shards(torch.stack(found).sum(0)).cumsum(0)
            if cumulative[-1] > 0:
                below = int((cumulative < due[0]["unclipped"] * cumulative[-1]).sum())
                for group in due:
                    group["calibrated_gamma"] = 2.0 ** ((below + 1) / PER_OCTAVE - OCTAVES)
        for group in self.param_groups:
            group["fresh"] = False

    def _over_shards(self, numbers: Tensor) -> Tensor:
        """Sums over the processes that hold the shards of the parameters; with FSDP2 all of them."""
        if any(isinstance(p, DTensor) for p in self.parameters()):
            torch.distributed.all_reduce(numbers)
        return numbers

    def _rows(self, group: dict[str, Any]) -> Iterator[Tensor]:
        """The parameters of a group that have a gradient; their averages are there from then on."""
        for p in group["params"]:
            if p.grad is not None:
                if p.grad.is_sparse:
                    raise UsageError("SophiaG: sparse gradients are not supported; use dense embeddings")
                self._begin(p)
                yield p

    def _known(self, group: dict[str, Any]) -> list[Tensor]:
        """The parameters of a group that have averages."""
        return [p for p in group["params"] if p in self.state]

    def _begin(self, p: Tensor) -> None:
        if p not in self.state:
            dtype = torch.promote_types(p.dtype, torch.float32)
            self.state[p] = {name: torch.zeros_like(p, dtype=dtype) for name in ("momentum", "curvature")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of any optimizer, but the averages stay float32; torch would cast them to the type of their parameters."""
        super().load_state_dict(state_dict)
        order = [number for group in state_dict["param_groups"] for number in group["params"]]
        for p, number in zip(self.parameters(), order, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                self.state[p][name] = value.to(device=p.device, copy=True)


def _gamma(group: dict[str, Any]) -> float:
    chosen = group["calibrated_gamma"] if group["gamma"] is None else group["gamma"]
    return 1.0 if chosen is None else float(chosen)  # without an estimate h is 0, and any γ gives sign steps


def _corrections(group: dict[str, Any]) -> tuple[float, float]:
    """The number that m has to be divided by, and the one that h has to be multiplied with."""
    beta1, beta2 = group["betas"]
    steps, refreshes = max(1, group["steps"]), max(1, group["refreshes"])
    return 1 - beta1**steps, 1 / (1 - beta2**refreshes)


def _parts(rows: list[Tensor], foreach: bool) -> list[list[Tensor]]:
    """What one foreach call takes: everything of one device and type, or one parameter. Never an empty list."""
    if not foreach:
        return [[p] for p in rows]
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for p in rows:
        kinds.setdefault((p.device, p.dtype), []).append(p)
    return list(kinds.values())


def _local(tensor: Tensor | None) -> Tensor:
    """This process's part of a tensor; all that the optimizer does is done number by number."""
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
