"""Writes files atomically: a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Seconds without a write after which a part is considered left behind by a killed process.
_STALE = 3600.0
# Leaves room for the token within the 255 bytes of a file name, at four bytes per character.
_MOST_CHARACTERS = 50


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a path beside a file to write to, and renames it to the file if the block succeeds; creates the folder.

    The name of the path cannot be guessed, so that nobody can place a link to another file there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _create_part(path)
    try:
        yield part
        part.replace(path)
    finally:
        # An error here must not hide why the block failed; a later call removes the part.
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    r"""Writes a text file atomically; bytes of file names that are not UTF-8 become escapes such as `\udcff`."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """Writes plain containers as indented JSON, atomically."""
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values for JSON, which has neither infinity nor NaN: such numbers become None."""
    return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in values.items()}


def open_own(path: Path, flags: int) -> int:
    """Opens a file of a predictable name, such as a lock, as a descriptor; creates it, and never follows a link.

    Args:
        path: file to open.
        flags: flags of `os.open` in addition to `O_CREAT` and `O_NOFOLLOW`.

    Raises:
        OSError: if the path is a link, and as `os.open`.
    """
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666)


def _create_part(path: Path) -> Path:
    prefix = f".{path.name[:_MOST_CHARACTERS]}."
    _remove_stale(path.parent, prefix)
    part = path.with_name(f"{prefix}{secrets.token_hex(8)}.part")
    # `tempfile` creates files that only their owner can read; here the mode follows the umask.
    os.close(open_own(part, os.O_WRONLY | os.O_EXCL))
    return part


def _remove_stale(folder: Path, prefix: str) -> None:
    """Removes parts of a file that killed processes left behind."""
    with os.scandir(folder) as entries:
        parts = [entry for entry in entries if entry.name.startswith(prefix) and entry.name.endswith(".part")]
    for entry in parts:
        with suppress(OSError):
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE:
                os.unlink(entry.path)
