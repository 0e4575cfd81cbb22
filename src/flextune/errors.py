"""The errors that flextune raises on purpose; the command line prints them as one sentence."""


class FlextuneError(Exception):
    """Something that the user can mend went wrong.

    The message is one sentence that names the file, line, key or argument, what was found there, what is allowed,
    and what to do. The command line prints it and exits with `exit_code`.
    """

    exit_code = 1


class DivergedError(FlextuneError):
    """The training loss stopped being a number."""


class NoRoomError(FlextuneError):
    """The disk is full."""


class UsageError(FlextuneError):
    """A command, a recipe or an argument is wrong; nothing was started."""

    exit_code = 2


def cause(error: Exception) -> str:
    """What a record says of an error: one raised on purpose is a sentence, any other has its type in front.

    >>> cause(DivergedError("the loss is nan at step 3")), cause(KeyError("x"))
    ('the loss is nan at step 3', "KeyError: 'x'")
    """
    return str(error) if isinstance(error, FlextuneError) else f"{type(error).__name__}: {error}"
