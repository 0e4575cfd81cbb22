"""What the readings of the paper's penalty amount to, and what it does in training: the numbers in docs/paper-notes.md.

    python benchmarks/readings.py [--train DATA] [--runs runs/readings]

Without --train, in seconds: L_F at initialisation in each reading, on the LoRA shapes of Code Llama 7B (gate, up, down,
rank 8; A as PEFT draws it, B = 0); and L_F of one factor when the order of its indices changes.

With --train: SmolLM2-135M (float32) is tuned on the first 120 MBPP training problems, 60 steps of AdamW at 2e-4 on two
each, once for each form and strength, one seed; DATA is a folder with mbpp.jsonl. What is there is not trained again.
Prints the tables and writes them to benchmarks/results/readings.md.
"""

import argparse
import json
import math
import re
import statistics
from pathlib import Path

import torch
from torch import nn

from flextune import FourierPenalty, Penalty, Recipe, Training
from flextune.files import read_jsonl
from flextune.pipeline import train_only
from flextune.rundir import machine
from flextune.tuning.spectrum import spectrum

RESULTS = Path(__file__).parent / "results" / "readings.md"
PENALTIES = {
    "plain LoRA": Penalty(strength=0),
    "λ = 0.001": Penalty(strength=0.001),
    "λ = 0.005": Penalty(strength=0.005),
    "λ = 0.02": Penalty(strength=0.02),
    "λ = 0.05": Penalty(strength=0.05),
    "λ = 0.02, permuted": Penalty(strength=0.02, form="permuted"),
    "λ = 0.02, l2": Penalty(strength=0.02, form="l2"),
    "λ = 0.02, product": Penalty(strength=0.02, form="product"),
    "λ = 0.02, decoupled": Penalty(strength=0.02, decoupled=True),
    "λ = 0.02, norm backward": Penalty(strength=0.02, norm="backward"),
}


def fresh(rank: int, d_in: int) -> nn.Parameter:
    """A as PEFT draws it."""
    factor = nn.Parameter(torch.empty(rank, d_in))
    nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
    return factor


def at_initialisation() -> list[list[str]]:
    """L_F and 0.02 L_F of the 96 A's of Code Llama 7B, MLP-only, and the λ′ of a weight decay as strong."""
    torch.manual_seed(0)
    factors = [fresh(8, d_in) for _ in range(32) for d_in in (4096, 4096, 11008)]
    rows = []
    for bins in ("rfft", "fft", "parameters"):
        for norm in ("ortho", "backward", "forward"):
            for reduction in ("sum", "mean"):
                penalty = FourierPenalty(factors, norm=norm, reduction=reduction, bins=bins)
                decay = sorted(set(penalty.effective_strengths().values()))
                value = penalty.value().item()
                rows.append([bins, norm, reduction, f"{value:.3g}", f"{penalty.strength * value:.3g}"])
                rows[-1].append(" to ".join(dict.fromkeys(f"{d:.3g}" for d in (decay[0], decay[-1]))))
    return rows


def order_of_indices() -> list[list[str]]:
    """The penalty of one smooth A (8 × 4096) of norm 1, and of the same numbers in another order."""
    torch.manual_seed(0)
    period = torch.sin(torch.arange(4096) * 2 * math.pi / 512)
    smooth = torch.stack([period.roll(int(shift)) for shift in torch.randint(512, (8,))])
    orders = {
        "as it is": smooth,
        "input channels permuted": smooth[:, torch.randperm(4096)],
        "ranks permuted": smooth[torch.randperm(8)],
        "transposed before it is flattened": smooth.T,
        "white noise": torch.randn(8, 4096),
    }
    second = torch.randn(4096, 8)
    rows = []
    for name, entries in orders.items():
        factors = FourierPenalty([nn.Parameter(entries / entries.norm())]).value().item()
        first = entries.T if name.startswith("transposed") else entries
        pair = nn.Parameter(first), nn.Parameter(second)
        product = FourierPenalty([pair], form="product").value() / (second @ first).norm() ** 2
        rows.append([name, f"{factors:.3f}", f"{product.item():.3f}"])
    return rows


def in_training(data: str, runs: Path) -> list[list[str]]:
    """Norms, loss and spectra after training with each penalty."""
    rows = []
    for name, penalty in PENALTIES.items():
        folder = runs / re.sub(r"[^a-z0-9.]+", "-", name.lower().replace("λ", "lambda"))
        training = Training(dataset="mbpp", limit=120, epochs=1, batch_size=2)
        recipe = Recipe(model="smollm2-135m", dtype="float32", data=data, training=training, penalty=penalty)
        run = train_only(recipe, folder)
        metrics = list(read_jsonl(run.metrics))
        first, last = metrics[0], metrics[-1]
        loss = statistics.mean(row["loss"] for row in metrics[-20:])
        measured = spectrum([run.adapter])["adapters"][0]["overall"]
        rows.append([name, f"{last['lora_A_norm'] / first['lora_A_norm']:.3f}", f"{last['lora_B_norm']:.2f}"])
        rows[-1] += [f"{measured['delta']['norm']:.2f}", f"{last['fourier_loss']:.3g}", f"{loss:.3f}"]
        for part in ("A", "B", "delta"):
            share, null = measured[part]["share_above"], measured[part]["null"]["share_above"]
            rows[-1].append(f"{share:.1%} ({null['low']:.1%} to {null['high']:.1%})")
        print(*rows[-1], sep=" | ", flush=True)
    return rows


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", metavar="DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/readings"))
    options = parser.parse_args()
    text = [
        "# Readings of the penalty",
        f"`python benchmarks/readings.py{' --train DATA' if options.train else ''}`",
        f"{json.dumps(machine())}, torch {torch.__version__}",
        "At initialisation, Code Llama 7B's shapes, MLP-only, rank 8 (96 A's; B = 0 adds nothing):",
        table(
            ["bins", "norm", "reduction", "L_F", "0.02 · L_F", "as strong on white noise as weight decay"],
            at_initialisation(),
        ),
        "One A of norm 1 whose rows are sines of 8 periods with random phases, and the same numbers in another order; "
        "`product` with a random B, per ‖ΔW‖²:",
        table(["order", "factors", "product"], order_of_indices()),
    ]
    if options.train:
        head = ["", "‖A‖, last step / first", "‖B‖", "‖ΔW‖", "L_F", "task loss, last 20 steps"]
        head += [f"{part} above T (by chance)" for part in ("A", "B", "ΔW")]
        text += ["After 60 steps on MBPP (one seed):", table(head, in_training(options.train, options.runs))]
    RESULTS.write_text("\n\n".join(text) + "\n")
    print(RESULTS.read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    main()
