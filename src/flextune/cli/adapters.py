"""The verbs that look at adapters themselves: `spectrum`."""

from pathlib import Path

from flextune.progress import out


def spectrum(
    adapter: str,
    *more: str,
    output: str = "runs/spectrum",
    threshold: float = 0.5,
    permutations: int = 39,
    seed: int = 0,
) -> None:
    """Show where in frequency adapters have their energy, and whether chance would put it there.

    Parameters
    ----------
    adapter
        A PEFT folder; no model is loaded.
    more
        Further ones, to see side by side.
    output
        The folder to write: spectrum.json, and figures as SVG.
    threshold
        The relative frequency above which energy counts as high.
    permutations
        Random permutations of the adapter's entries that show what chance does.
    seed
        For permutations.
    """
    from flextune.files import write_json
    from flextune.report import spectra
    from flextune.tuning.spectrum import spectrum as measure

    content = measure([adapter, *more], threshold, permutations, seed)
    folder = Path(output)
    write_json(folder / "spectrum.json", content)
    spectra.draw(content, folder)
    out.print(spectra.summary(content))
    out.print(f"Numbers and figures: {folder}", soft_wrap=True)
