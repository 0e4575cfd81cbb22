"""The time and memory of the Fourier penalty in an optimizer step, beside a penalty in the loss through autograd.

    python benchmarks/fourier.py [--models smollm2-135m,/path/to/qwen2.5-coder-0.5b] [--device cpu|cuda]

For the LoRA shapes of SmolLM2-135M, Qwen2.5-Coder-0.5B and Code Llama 7B, MLP-only (gate, up, down) and comprehensive
(q, v, up, down), rank 8 and 64:

- floor: reads each factor and reads and writes each gradient once, `torch._foreach_add_(gradients, factors)`;
- autograd: λ Σ ρ |rfft(w)|² factor by factor, with ρ computed beforehand, and its backward pass into `.grad`;
- ours: `FourierPenalty.add_gradient_`.

The three take turns, and each figure is the median of its turns. Memory is what the highest resident size (on a GPU: of
the allocator) grows by in a process of its own that does one penalty.

For each of `--models` a real training step is timed too: forward pass, backward pass and AdamW on 4 × 256 tokens, LoRA
on the MLP with rank 8, without a penalty. Prints the tables and writes them to benchmarks/results/fourier.md.
"""

import argparse
import json
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from flextune import Adapter, FourierPenalty
from flextune.rundir import machine
from flextune.tuning.forms import Reading

RESULTS = Path(__file__).parent / "results" / "fourier.md"
MODELS = {  # hidden, intermediate, output of k and v, layers
    "SmolLM2-135M": (576, 1536, 192, 30),
    "Qwen2.5-Coder-0.5B": (896, 4864, 128, 24),
    "Code Llama 7B": (4096, 11008, 4096, 32),
}
LAMBDA = 0.02


def shapes(model: str, targets: str, rank: int) -> list[tuple[int, int]]:
    """The shapes of A and B of every layer."""
    hidden, intermediate, values, layers = MODELS[model]
    sizes = {"q": (hidden, hidden), "v": (hidden, values), "gate": (hidden, intermediate)}
    sizes |= {"up": (hidden, intermediate), "down": (intermediate, hidden)}
    names = {"mlp": ("gate", "up", "down"), "comprehensive": ("q", "v", "up", "down")}[targets]
    pairs = [((rank, sizes[name][0]), (sizes[name][1], rank)) for name in names]
    return [shape for _ in range(layers) for pair in pairs for shape in pair]


def factors_with_gradients(model: str, targets: str, rank: int, device: str) -> list[nn.Parameter]:
    """Random factors that have a gradient, as after a backward pass."""
    torch.manual_seed(0)
    factors = [nn.Parameter(torch.randn(shape, device=device) / 100) for shape in shapes(model, targets, rank)]
    for factor in factors:
        factor.grad = torch.zeros_like(factor)
    return factors


def by_autograd(factors: list[nn.Parameter]) -> Callable[[], None]:
    """The penalty as one writes it first: a term of the loss."""
    weights = {}
    for factor in factors:
        rho = (1 - Reading().phi(factor.numel())).to(factor.device, torch.float32)
        weights.setdefault(factor.numel(), rho)

    def penalty() -> None:
        loss = 0
        for factor in factors:
            spectrum = torch.fft.rfft(factor.flatten(), norm="ortho")
            loss = loss + (weights[factor.numel()] * spectrum.abs().pow(2)).sum()
        (LAMBDA * loss).backward()

    return penalty


def medians(contestants: dict[str, Callable[[], object]], device: str, turns: int) -> dict[str, float]:
    """Milliseconds of each, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(turns + 2):
        for name, contestant in contestants.items():
            synchronize(device)
            started = time.perf_counter()
            contestant()
            synchronize(device)
            if turn >= 2:
                times[name].append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def extra_memory(model: str, targets: str, rank: int, device: str) -> float:
    """The highest extra memory of one penalty, as a multiple of the factors' own size; for a process of its own."""
    factors = factors_with_gradients(model, targets, rank, device)
    own = sum(factor.numel() * factor.element_size() for factor in factors)
    torch.fft.irfft(torch.fft.rfft(torch.ones(2, 64, device=device)))  # libraries load
    penalty = FourierPenalty(factors)

    def peak() -> int:
        if device == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    ballast = torch.ones(1)  # what the construction took for a moment is taken anew, so that the peak starts from now
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        ballast = torch.ones(max(1, (peak() - now) // 4))
    before = peak()
    penalty.add_gradient_()
    del ballast
    return (peak() - before) / own


def training_step(source: str, device: str, turns: int) -> tuple[dict[str, float], int]:
    """Milliseconds of a real step of 1,024 tokens without a penalty, of each penalty on that model, and its size."""
    from flextune.models import find_model, load_model
    from flextune.tuning.train import add_adapter

    base, _ = load_model(find_model(source))
    size = sum(p.numel() for p in base.parameters())
    model = add_adapter(base.to(device), Adapter(targets="mlp", rank=8)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    tokens = torch.randint(0, base.config.vocab_size, (4, 256), device=device)

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()

    penalty = FourierPenalty(model, LAMBDA)
    autograd = by_autograd([factor.parameter for factor in penalty.factors])
    ms = medians({"step": step}, device, 5)
    return ms | medians({"autograd": autograd, "ours": penalty.add_gradient_}, device, turns), size


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="smollm2-135m")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--memory-of", nargs=3, metavar=("MODEL", "TARGETS", "RANK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = options.device
    if options.memory_of:
        model, targets, rank = options.memory_of
        print(extra_memory(model, targets, int(rank), device))
        return

    rows = []
    for model in MODELS:
        for targets in ("mlp", "comprehensive"):
            for rank in (8, 64):
                factors = factors_with_gradients(model, targets, rank, device)
                penalty = FourierPenalty(factors, LAMBDA)
                gradients = [factor.grad for factor in factors]
                values = [factor.detach() for factor in factors]
                contestants = {
                    "floor": lambda g=gradients, v=values: torch._foreach_add_(g, v, alpha=LAMBDA),
                    "autograd": by_autograd(factors),
                    "ours": penalty.add_gradient_,
                }
                ms = medians(contestants, device, options.turns)
                command = [sys.executable, __file__, "--device", device, "--memory-of", model, targets, str(rank)]
                memory = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                entries = sum(factor.numel() for factor in factors)
                rows.append([model, targets, rank, f"{entries / 1e6:.1f}", f"{ms['floor']:.2f}"])
                rows[-1] += [f"{ms['autograd']:.1f}", f"{ms['ours']:.1f}", f"**{ms['autograd'] / ms['ours']:.1f}**"]
                rows[-1] += [f"{ms['ours'] / ms['floor']:.0f}", f"{memory:.2f}"]
                print(*rows[-1], sep=" | ", flush=True)

    forms = []
    for model in MODELS:
        factors = factors_with_gradients(model, "mlp", 8, device)
        pairs = list(zip(factors[::2], factors[1::2], strict=True))
        penalties = {
            form: FourierPenalty(pairs if form == "product" else factors, LAMBDA, form=form)
            for form in ("factors", "product", "permuted", "l2")
        }
        ms = medians({form: penalty.add_gradient_ for form, penalty in penalties.items()}, device, options.turns)
        forms.append([model, *(f"{ms[form]:.1f}" for form in penalties)])
        print(*forms[-1], sep=" | ", flush=True)

    steps = []
    for source in options.models.split(",") if options.models else ():
        ms, size = training_step(source, device, options.turns)
        steps.append([Path(source).name, f"{size / 1e6:.0f}", f"{ms['step']:.0f}"])
        for name in ("autograd", "ours"):
            steps[-1] += [f"{ms[name]:.1f}", f"**{ms[name] / ms['step']:.2%}**"]
        print(*steps[-1], sep=" | ", flush=True)

    head = ["shapes of", "targets", "rank", "entries (M)", "floor (ms)", "autograd (ms)", "ours (ms)", "times faster"]
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    text = [
        "# The Fourier penalty in an optimizer step",
        f"`{shlex.join(['python', 'benchmarks/fourier.py', *sys.argv[1:]])}`",
        f"{json.dumps(machine())}, {where}, torch {torch.__version__}. The median of {options.turns} turns.",
        table([*head, "ours / floor", "extra memory / factors"], rows),
        "The forms, MLP-only, rank 8, in ms:",
        table(["shapes of", "factors", "product", "permuted", "l2"], forms),
        "A real training step of 1,024 tokens (4 × 256; forward, backward, AdamW), LoRA on the MLP, rank 8, and the "
        "penalty's share of it:",
        table(["model", "parameters (M)", "step (ms)", "autograd (ms)", "share", "ours (ms)", "share"], steps),
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    path = RESULTS if device == "cpu" else RESULTS.with_stem("fourier-gpu")
    path.write_text("\n\n".join(text) + "\n")
    print(f"written to {path}")


def table(head: list[str], rows: list[list[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)


if __name__ == "__main__":
    main()
