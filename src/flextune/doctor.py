"""What works on this machine, for `flextune doctor`."""

from rich.table import Table

from flextune.execution.languages import JAVATUPLES, LANGUAGES, find_tool, missing_parts, tool_version
from flextune.execution.sandbox import bubblewrap
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
    problem = bubblewrap.problem()
    found.add_row("sandbox", problem or "bubblewrap holds", "apt-get install bubblewrap" if problem else "")
    for package, installed in versions().items():
        found.add_row(package, installed, "")
    found.add_row("accelerator", _accelerator(), "")
    return found


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"none; {torch.get_num_threads()} threads on the CPU"
