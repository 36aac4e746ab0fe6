"""The exception for errors that users can fix."""

from __future__ import annotations


class UserError(ValueError):
    """An error in a config, a file or an argument; the message names the cause and the remedy.

    Command lines print it without a traceback and exit with status 2. Any other exception is a defect of streamnest and
    keeps its traceback.
    """
