"""The command line: one verb, one function. Heavy libraries are imported by the verb that needs them.

Exit codes: 0 done, 1 failed, 2 used wrongly, 130 and 143 stopped.
"""

import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import cyclopts
from cyclopts import Parameter

from flextune import processes
from flextune.cli import adapters, data, experiment, scoring, stages, studies
from flextune.errors import FlextuneError
from flextune.progress import console, out, say
from flextune.rundir import version

app = cyclopts.App(
    name="flextune",
    help="Fine-tune a code model on one programming language, and know what that did to the others.",
    version=version,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
    help_epilogue="Start with `flextune quickstart`. Add --debug to any command to see a traceback.",
)
app.command(data.app)
VERBS: tuple[Callable[..., None], ...] = (
    experiment.quickstart,
    experiment.run,
    experiment.evaluate,
    experiment.recipe,
    studies.reproduce,
    studies.sweep,
    studies.autotune,
    stages.train,
    stages.generate,
    stages.execute,
    scoring.score,
    scoring.compare,
    stages.report,
    adapters.spectrum,
    adapters.merge,
    adapters.push,
)
for verb in VERBS:
    app.command(verb)


@app.command
def doctor() -> None:
    """Say what works here: toolchains, sandbox, libraries, accelerator."""
    from flextune import doctor as examination

    out.print(examination.table())


class TerminatedError(KeyboardInterrupt):
    """The command was asked to end, by a scheduler, a container, or `kill`; it tidies up as after Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _terminated)
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    sys.exit(_guarded(lambda: app(tokens, exit_on_error=False, print_error=False, result_action="return_value"), debug))


def _terminated(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
    raise TerminatedError


def _guarded(command: Callable[[], Any], debug: bool) -> int:
    """Run a command; errors become one sentence and an exit code."""
    try:
        command()
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            console.print_exception()
        code, message = _sentence(error)
    if processes.leads():
        say(f"flextune: {message}")
    elif code != 2:  # what is used wrongly is so in all of them
        console.print(f"flextune, process {processes.rank()}: {message}", soft_wrap=True)
    return code


def _sentence(error: BaseException) -> tuple[int, str]:
    """The exit code of an error, and what to say of it."""
    match error:
        case cyclopts.CycloptsError():
            return 2, f"{error} (see `flextune --help`)"
        case FlextuneError():
            return error.exit_code, str(error)
        case KeyboardInterrupt():
            code = 143 if isinstance(error, TerminatedError) else 130
            return code, "stopped; the same command goes on from here"
        case FileNotFoundError():
            return 1, f"{error.filename} is not there" if error.filename else str(error)
        case OSError():
            place = f"{error.filename}: " if error.filename else ""
            return 1, f"{place}{error.strerror or error}; what was finished is kept, the same command goes on"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return 1, "the GPU is out of memory: lower generation.concurrency or training.batch_size"
    return 1, f"{type(error).__name__}: {error} (this is a defect of flextune; --debug shows where)"
