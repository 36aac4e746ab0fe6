"""The exception for errors that users can fix, and the causes that its messages name."""

from __future__ import annotations


def cause_of(error: BaseException) -> str:
    """Returns the message of an error; for one of the file system without its number and the path."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


class UserError(ValueError):
    """An error in a config, a file or an argument; the message names the cause and the remedy.

    Command lines print it without a traceback and exit with status 2. Any other exception is a defect of streamnest and
    keeps its traceback.
    """
