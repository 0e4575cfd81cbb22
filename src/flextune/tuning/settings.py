"""What a recipe says about fine-tuning: `training`, `adapter` and `penalty`."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from flextune.section import SECTION

Norm = Literal["ortho", "backward", "forward"]
Reduction = Literal["sum", "mean"]
Bins = Literal["rfft", "fft", "parameters"]
Form = Literal["factors", "product", "permuted", "l2"]

PRESETS: dict[str, tuple[str, ...]] = {
    "attention": ("query", "value"),
    "comprehensive": ("query", "value", "up", "down"),
    "mlp": ("gate", "up", "down"),
}
"""Roles of modules by the preset's name: the paper's Table 1 is `comprehensive`, its section 8.4 is `mlp`."""


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Adapter:
    """LoRA (Hu et al. 2021, arXiv 2106.09685): ΔW = (alpha / rank) · B A on the target modules."""

    targets: Literal["attention", "comprehensive", "mlp", "all-linear"] | list[str] = "mlp"
    """A preset (attention: q, v; comprehensive: q, v, up, down; mlp: gate, up, down; all-linear), or module names. A
    preset finds the modules with these roles in each architecture; a fused module counts for all of its roles."""
    rank: Annotated[int, Field(ge=1)] = 8
    """Rank r of the factors A (r × d_in) and B (d_out × r)."""
    alpha: float | str = 16.0
    """Scale: ΔW is multiplied by alpha / rank. A number, or a multiple of the rank: `2r`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout on the input of A while training."""
    start: str | None = None
    """A PEFT folder, or the directory of a run, whose adapter goes on being trained; all other settings are its own."""
    peft: dict[str, Any] = Field(default_factory=dict)
    """Any other field of `peft.LoraConfig`: `use_dora: true`, `use_rslora: true`, `init_lora_weights: pissa`, …"""

    @property
    def lora_alpha(self) -> float:
        """Alpha as a number.

        >>> Adapter(rank=4, alpha="2r").lora_alpha
        8.0
        """
        return float(self.alpha[:-1]) * self.rank if isinstance(self.alpha, str) else self.alpha

    @model_validator(mode="after")
    def _possible(self) -> "Adapter":
        multiple = isinstance(self.alpha, str) and re.fullmatch(r"\d*\.?\d+r", self.alpha)
        if (isinstance(self.alpha, str) and not multiple) or self.lora_alpha <= 0:
            raise ValueError(
                f"alpha = {self.alpha!r}: expected a number above 0, or a multiple of the rank, such as 2r"
            )
        if self.start is not None:
            for name in ("targets", "rank", "alpha", "dropout", "peft"):
                if getattr(self, name) != getattr(type(self)(), name):
                    raise ValueError(
                        f"{name} = {getattr(self, name)!r}: has no effect beside adapter.start = {self.start!r}, "
                        "which has its own; leave it out"
                    )
        return self


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Penalty:
    """The Fourier penalty of the paper (section 3.3) on each LoRA factor."""

    strength: Annotated[float, Field(ge=0)] = 0.02
    """λ of eq. 7; 0 trains plain LoRA."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """T of eq. 6: the share of the spectrum over which the penalty rises."""
    phi_low: Annotated[float, Field(ge=0, le=1)] = 1.0
    """φ at frequency 0; 1 leaves it free."""
    phi_high: Annotated[float, Field(ge=0, le=1)] = 0.1
    """φ above the threshold; the penalty's weight there is 1 − φ."""
    norm: Norm = "ortho"
    """Of the FFT: it multiplies the penalty by 1, N or 1 / N for a factor of N entries."""
    reduction: Reduction = "sum"
    """Over the bins of a factor."""
    bins: Bins = "rfft"
    """rfft: N // 2 + 1 bins, each once; fft: both halves of the spectrum; parameters: rfft with n = N in eq. 6."""
    form: Form = "factors"
    """factors: the paper's; product: on ΔW = B A; permuted and l2: controls without frequency."""
    start_step: Annotated[int, Field(ge=0)] = 0
    """The first optimizer step, from 0, at which it acts."""
    ramp_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which it grows linearly from there."""
    decoupled: bool = False
    """Take it from the weights after the optimizer's step, as AdamW does with weight decay (an ablation)."""


Estimator = Literal["gnb", "hutchinson", "empirical_fisher"]


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Sophia:
    """Sophia (Liu et al. 2023, arXiv 2305.14342): steps over the curvature, and signs where there is little of it."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.965, 0.99)
    """Decay of the averages of the gradient and of the curvature."""
    gamma: Annotated[float, Field(gt=0)] | None = None
    """γ of eq. 2; left out, it is chosen while warming up so that `unclipped` of the coordinates are not clipped."""
    unclipped: Annotated[float, Field(gt=0, lt=0.5)] = 0.3
    """The share of coordinates that γ is chosen for, every factor weighing the same."""
    eps: Annotated[float, Field(gt=0)] = 1e-12
    """ε of eq. 2: the least that the gradient is divided by."""
    estimator: Estimator = "gnb"
    """gnb: labels drawn from the model, the paper's; hutchinson and empirical_fisher: ablations."""
    refresh_every: Annotated[int, Field(ge=1)] = 10
    """Steps from one estimate of the curvature to the next; there are also ones at steps 0, 1, 2, 4 and 8."""
    refresh_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of the last batch of a step that the estimate is made from."""


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Training:
    """What to learn from, and how long."""

    dataset: str = "basics"
    """A training set by name (`flextune data list`), or a .jsonl file with `prompt` and `completion`."""
    template: str | None = None
    """How a row becomes a prompt; by default the first template of the data set."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use the first examples only."""
    solutions: Annotated[int, Field(ge=1)] = 1
    """Solutions to learn of each problem of APPS: its first, or as many as this, drawn without replacement."""
    validation: Annotated[int, Field(ge=1, strict=True)] | str | None = None
    """A second training set to measure the loss on, or how many examples to hold out of the first."""
    overlap: Literal["refuse", "drop", "keep"] = "refuse"
    """What to do with examples that are also problems of a benchmark measured in this recipe."""
    epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the training set."""
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Examples in one forward pass."""
    batch_tokens: Annotated[int, Field(ge=8)] | None = None
    """Instead: as many examples in one forward pass as have this many tokens together at most."""
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Forward passes in one optimizer step."""
    optimizer: Literal["adamw", "sophia"] = "adamw"
    """AdamW (fused), or Sophia-G."""
    sophia: Sophia = Field(default_factory=Sophia)
    """Settings of Sophia."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of either optimizer, decoupled."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps over which the learning rate rises from 0."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Clip the gradient to this norm; 0 never clips."""
    max_length: Annotated[int, Field(ge=8)] = 512
    """Longest example in tokens; longer ones are left out and counted, never cut."""
    gradient_checkpointing: bool = False
    """Compute activations anew in the backward pass: less memory, a third more time."""
    checkpoint_steps: Annotated[int, Field(ge=1)] = 20
    """Optimizer steps from one checkpoint, and one validation, to the next; a killed run goes on from the last."""
    kl: Annotated[float, Field(ge=0)] = 0.0
    """Adds so many times KL(base ‖ tuned) per learned token to the loss, which holds the model near what it was."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop when so many validations one after another were no better; the best adapter is kept."""
    report_to: list[str] = Field(default_factory=list)
    """Trackers that see the metrics too: trackio, tensorboard, wandb, mlflow."""

    @model_validator(mode="after")
    def _possible(self) -> "Training":
        if self.patience is not None and self.validation is None:
            raise ValueError(f"patience = {self.patience}: needs training.validation, the loss that it watches")
        return self
