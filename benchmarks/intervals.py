"""How often the intervals hold the truth, and whether they are those of the textbook.

    python benchmarks/intervals.py [--simulations 400]

- Wilson: every outcome of n problems is enumerated, ours and the formula as Wilson printed it.
- Newcombe, paired: for 40 and 158 problems every table of both, first only, second only and neither, by the formula as
  Newcombe printed it, in NumPy; ours is compared with it on every table of 40 problems and on 4,000 random ones of 158.
- Bootstrap over problems: simulated; each problem has a probability of its own, drawn from a Beta distribution, and 10
  samples. What is to be held is the mean of that distribution.

Prints the tables and writes them to benchmarks/results/intervals.md.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from flextune.rundir import machine
from flextune.scoring.intervals import bootstrap_mean, newcombe_paired, wilson

RESULTS = Path(__file__).parent / "results" / "intervals.md"
SIZES = (40, 100, 158, 164, 500)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
Array = Any


def wilson_of_the_book(k: Array, n: int) -> tuple[Array, Array]:
    """Wilson's limits (Wilson 1927, JASA 22:209)."""
    z, p = stats.norm.ppf(0.975), k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return centre - half, centre + half


def newcombe_of_the_book(e: Array, f: Array, g: Array, h: Array) -> tuple[Array, Array]:
    """Limits of (f − g) / n for both e, first only f, second only g, neither h (Newcombe 1998, method 10)."""
    n = e + f + g + h
    low_1, high_1 = wilson_of_the_book(e + f, n)
    low_2, high_2 = wilson_of_the_book(e + g, n)
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    product = e * h - f * g
    numerator = np.where(product > n / 2, product - n / 2, np.where(product >= 0, 0, product))
    phi = np.where(margins > 0, numerator / np.sqrt(np.where(margins > 0, margins, 1)), 0)
    p_1, p_2 = (e + f) / n, (e + g) / n
    below, above = (p_1 - low_1, high_2 - p_2), (high_1 - p_1, p_2 - low_2)
    low, high = (np.sqrt(np.maximum(a**2 - 2 * phi * a * b + b**2, 0)) for a, b in (below, above))
    return p_1 - p_2 - low, p_1 - p_2 + high


def of_wilson() -> list[list[str]]:
    """For each n the coverage at each p, ours; an error if the formula's is another."""
    rows = []
    for n in SIZES:
        k = np.arange(n + 1)
        low, high = wilson_of_the_book(k, n)
        ours = [wilson(int(i), n) for i in k]
        row = [str(n)]
        for p in SHARES:
            weights = stats.binom.pmf(k, n, p)
            book = weights[(low <= p) & (p <= high)].sum()
            found = sum(w for w, interval in zip(weights, ours, strict=True) if interval.low <= p <= interval.high)
            assert abs(book - found) < 1e-12, (n, p, book, found)
            row.append(f"{100 * found:.1f}")
        rows.append(row)
    return rows


def tables(n: int) -> tuple[Array, Array, Array, Array]:
    """All ways to put n problems into four cells."""
    e, f, g = (axis.ravel() for axis in np.indices((n + 1, n + 1, n + 1), dtype=np.int32))
    kept = e + f + g <= n
    e, f, g = (cell[kept].astype(float) for cell in (e, f, g))
    return e, f, g, n - e - f - g


def of_newcombe() -> tuple[list[list[str]], float]:
    """The coverage for two sizes and several truths, and the largest distance of ours from the formula."""
    rows, furthest = [], 0.0
    rng = np.random.default_rng(0)
    for n in (40, 158):
        cells = tables(n)
        low, high = newcombe_of_the_book(*cells)
        chosen = range(len(low)) if n == 40 else rng.choice(len(low), 4000, replace=False)
        for number in chosen:
            e, f, g, h = (int(cell[number]) for cell in cells)
            ours = newcombe_paired(both=e, first=g, second=f, neither=h)
            furthest = max(furthest, abs(ours.low - low[number]), abs(ours.high - high[number]))
        counts = np.stack(cells, axis=1)
        for first, second, both in ((0.05, 0.05, 0.3), (0.05, 0.15, 0.3), (0.1, 0.2, 0.1), (0.15, 0.15, 0.6)):
            weights = stats.multinomial.pmf(counts, n, [both, second, first, 1 - both - first - second])
            held = weights[(low <= second - first) & (second - first <= high)].sum()
            shares = [f"{share:.2f}" for share in (both, first, second)]
            rows.append([str(n), *shares, f"{100 * held:.1f}"])
    return rows, furthest


def of_bootstrap(simulations: int) -> list[list[str]]:
    """The coverage over simulated benchmarks."""
    rng = np.random.default_rng(0)
    rows = []
    for n in (40, 158, 500):
        for mean in (0.1, 0.4):
            held = 0
            for _ in range(simulations):
                probabilities = rng.beta(mean, 1 - mean, size=n)
                values = rng.binomial(10, probabilities) / 10
                found = bootstrap_mean(values.tolist())
                held += found.low <= mean <= found.high
            error = (0.05 * 0.95 / simulations) ** 0.5
            rows.append([str(n), f"{mean:.1f}", f"{100 * held / simulations:.1f} ± {100 * error:.1f}"])
    return rows


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [columns, ["---:"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=400)
    options = parser.parse_args()
    newcombe, furthest = of_newcombe()
    show: Callable[[list[str], list[list[str]]], str] = table
    parts = [
        "# How often the 95 % intervals hold the truth",
        f"`python benchmarks/intervals.py --simulations {options.simulations}`\n\n{machine()}",
        "## Wilson, one sample a problem: exact coverage in %, equal to the printed formula's to 1e-12",
        show(["n", *(f"p = {p}" for p in SHARES)], of_wilson()),
        "## Newcombe, paired, method 10: exact coverage in %",
        show(["n", "both", "first only", "second only", "coverage"], newcombe),
        f"Ours is at most {furthest:.1e} from the printed formula, on every table of 40 problems and 4,000 of 158.",
        "## Bootstrap over problems, 10 samples each: simulated coverage in %",
        show(["n", "mean", "coverage"], of_bootstrap(options.simulations)),
    ]
    text = "\n\n".join(parts) + "\n"
    print(text)
    RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
