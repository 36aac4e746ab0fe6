"""The folder of files that can be computed again."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def cache_folder() -> Path:
    """Returns `$STREAMNEST_CACHE`, or a folder in the user's cache."""
    configured = os.environ.get("STREAMNEST_CACHE")
    return (
        Path(configured)
        if configured
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamnest"
    )


def make_private(folder: Path) -> None:
    """Creates a folder that only its user can read, and refuses one in which others could have placed files.

    Raises:
        PermissionError: for a folder of another user, or one that everybody can write to.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & stat.S_IWOTH:
        raise PermissionError("others can place files there: set STREAMNEST_CACHE to your own folder")
