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
