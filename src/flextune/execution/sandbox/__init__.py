"""Sandboxes: what stands between a program written by a model and the machine.

A layer turns a command into the command that runs it inside, with one folder as its scratch. `choose` finds the
strongest layer that works here, by trying it.
"""

from flextune.errors import FlextuneError, UsageError
from flextune.execution.sandbox import bubblewrap, none
from flextune.execution.sandbox.layer import Layer

__all__ = ["Layer", "choose"]


def choose(name: str = "auto", allow_unsandboxed: bool = False) -> Layer:
    """The sandbox layer to use.

    Args:
        name: `bubblewrap` fails if it does not work; `none` needs `allow_unsandboxed`; `auto` takes bubblewrap, and
            without it refuses unless `allow_unsandboxed`.
        allow_unsandboxed: Agree that the machine is open to the programs.
    """
    if name == "none" and not allow_unsandboxed:
        raise UsageError(
            "execution.sandbox = none opens this machine to programs that a model wrote; "
            "agree with execution.allow_unsandboxed=true in a recipe, --allow-unsandboxed elsewhere"
        )
    if name in ("auto", "bubblewrap"):
        problem = bubblewrap.problem()
        if problem is None:
            return bubblewrap.LAYER
        if name == "bubblewrap" or not allow_unsandboxed:
            raise FlextuneError(
                f"there is no sandbox for programs that a model wrote: {problem}; mend that, or agree to run them "
                "without one: execution.allow_unsandboxed=true in a recipe, --allow-unsandboxed elsewhere"
            )
    return none.LAYER
