"""The one exception that means "the user can mend this"."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in a config, a file or an argument; the message names it and the remedy.

    Command lines print it without a trace and exit with status 2. Everything else that is raised is a defect of ours
    and keeps its trace.
    """
