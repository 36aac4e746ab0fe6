"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# A part that nobody wrote to for so many seconds was left behind by a killed process.
_STALE = 3600.0
# Room for the token within the 255 bytes that a file system allows, with four bytes a character.
_MOST_CHARACTERS = 50


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside a file to write it to, from which it is moved when the block ends well; makes the folder.

    The place has a name that nobody can know before, so that it is not a link to a file of somebody else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _create_part(path)
    try:
        yield part
        part.replace(path)
    finally:
        # A disk that refuses this must not hide why the block failed; a later call removes what is left.
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    r"""Writes a text file as a whole; bytes in names of files that are not UTF-8 become `\udcff` and the like."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """Plain containers as indented JSON."""
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def open_own(path: Path, flags: int) -> int:
    """Opens a file of a predictable name, such as a lock, as a descriptor; creates it, and never follows a link.

    Args:
        path: file to open.
        flags: those of `os.open` beyond `O_CREAT` and `O_NOFOLLOW`.

    Raises:
        OSError: for a link in its place, and for what `os.open` refuses.
    """
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666)


def _create_part(path: Path) -> Path:
    beginning = f".{path.name[:_MOST_CHARACTERS]}."
    _remove_stale(path.parent, beginning)
    part = path.with_name(f"{beginning}{secrets.token_hex(8)}.part")
    # Not `tempfile`, whose files only their owner can read: the mode follows the umask.
    os.close(open_own(part, os.O_WRONLY | os.O_EXCL))
    return part


def _remove_stale(folder: Path, beginning: str) -> None:
    """Removes parts of a file that killed processes left behind."""
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if entry.name.startswith(beginning) and entry.name.endswith(".part")]
    for entry in found:
        with suppress(OSError):
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE:
                os.unlink(entry.path)
