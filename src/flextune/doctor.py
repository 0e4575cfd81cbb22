"""What works on this machine, for `flextune doctor`."""

from rich.table import Table

from flextune.execution import sandbox
from flextune.execution.languages import JAVATUPLES, LANGUAGES
from flextune.execution.toolchain import find_tool, missing_parts, tool_version
from flextune.rundir import versions


def table() -> Table:
    """One row for each part: there or not, which version, and how to get it."""
    found = Table(title="flextune doctor", title_justify="left")
    for column in ("part", "state", "how to get it"):
        found.add_column(column)
    for name, language in LANGUAGES.items():
        there = find_tool(name) is not None
        found.add_row(name, tool_version(name) or "missing", "" if there else language.install)
    lacking = missing_parts({"java"}, ["org.javatuples"])
    found.add_row("javatuples", "missing" if lacking else JAVATUPLES, lacking.rpartition(": ")[2] if lacking else "")
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
