"""The errors that flextune raises on purpose; the command line prints them as one sentence."""

import errno


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


def is_the_machines(error: Exception) -> bool:
    """Whether an error is the fault of the machine, so that what comes next would fail alike: the disk, not the memory.

    >>> is_the_machines(OSError(errno.ENOSPC, "full")), is_the_machines(OSError(errno.ENOMEM, "no memory"))
    (True, False)
    """
    return isinstance(error, NoRoomError) or (isinstance(error, OSError) and error.errno != errno.ENOMEM)


def cause(error: Exception) -> str:
    """What a record says of an error: one raised on purpose is a sentence, any other has its type in front.

    >>> cause(DivergedError("the loss is nan at step 3")), cause(KeyError("x"))
    ('the loss is nan at step 3', "KeyError: 'x'")
    """
    return str(error) if isinstance(error, FlextuneError) else f"{type(error).__name__}: {error}"


def reason(error: BaseException) -> str:
    r"""What a library's error says, in one line: up to the first sentence that is no mere announcement.

    >>> reason(RuntimeError("Error(s) in loading state_dict for X:\n\tsize mismatch for a.weight: 3 is not 4."))
    'Error(s) in loading state_dict for X: size mismatch for a.weight: 3 is not 4'
    >>> reason(KeyError("a.weight")), reason(ValueError())
    ("'a.weight' is missing", 'ValueError')
    """
    if isinstance(error, KeyError):
        return f"{error} is missing"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    kept = next((number for number, line in enumerate(lines, start=1) if not line.endswith(":")), len(lines))
    return " ".join(lines[:kept]).rstrip(".:")
