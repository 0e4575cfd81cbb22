"""What a recipe says about fine-tuning: `training`, `adapter` and `penalty`."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from flextune.section import SECTION

Norm = Literal["ortho", "backward", "forward"]
Reduction = Literal["sum", "mean"]
Bins = Literal["rfft", "fft", "parameters"]
Form = Literal["factors", "product", "permuted", "l2"]

PRESETS: dict[str, tuple[str, ...]] = {
    "attention": ("q_proj", "v_proj"),
    "comprehensive": ("q_proj", "v_proj", "up_proj", "down_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
"""Target sets by name: the paper's Table 1 is `comprehensive`, its section 8.4 is `mlp`."""


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Adapter:
    """LoRA (Hu et al. 2021, arXiv 2106.09685): ΔW = (alpha / rank) · B A on the target modules."""

    targets: Literal["attention", "comprehensive", "mlp", "all-linear"] | list[str] = "mlp"
    """A preset (attention: q, v; comprehensive: q, v, up, down; mlp: gate, up, down; all-linear), or module names."""
    rank: Annotated[int, Field(ge=1)] = 8
    """Rank r of the factors A (r × d_in) and B (d_out × r)."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scale: ΔW is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout on the input of A while training."""


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


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Training:
    """What to learn from, and how long."""

    dataset: str = "basics"
    """A training set by name (`flextune data list`), or a .jsonl file with `prompt` and `completion`."""
    template: str | None = None
    """How a row becomes a prompt; by default the first template of the data set."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use the first examples only."""
    overlap: Literal["refuse", "drop", "keep"] = "refuse"
    """What to do with examples that are also problems of a benchmark measured in this recipe."""
    epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the training set."""
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Examples in one forward pass."""
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Forward passes in one optimizer step."""
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
    checkpoint_steps: Annotated[int, Field(ge=1)] = 20
    """Optimizer steps from one checkpoint to the next; a killed run goes on from the last."""
