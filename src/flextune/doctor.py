"""What works on this machine, for `flextune doctor`."""

from pathlib import Path

from rich.table import Table

from flextune.execution import sandbox
from flextune.execution.toolchain import find_tool, tool_version
from flextune.languages import LANGUAGES
from flextune.rundir import versions


def table() -> Table:
    """One row for each part: there or not, which version, and how to get it."""
    found = Table(title="flextune doctor", title_justify="left")
    for column in ("part", "state", "how to get it"):
        found.add_column(column)
    for name, language in LANGUAGES.items():
        there = find_tool(name) is not None
        found.add_row(name, tool_version(name) or "missing", "" if there else language.install)
    for library in (library for language in LANGUAGES.values() for library in language.libraries):
        there = Path(library.path).exists()
        advice = "" if there else library.missing.rpartition(": ")[2]
        found.add_row(Path(library.path).stem, library.path if there else "missing", advice)
    for layer in sandbox.LAYERS:
        problem = sandbox.problem(layer)
        advice = "apt-get install bubblewrap" if problem and layer == "bubblewrap" else ""
        found.add_row(f"sandbox: {layer}", problem or "holds", advice)
    for package, installed in versions().items():
        found.add_row(package, installed, "")
    found.add_row("accelerator", _accelerator(), "")
    return found


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"none; {torch.get_num_threads()} threads on the CPU"
