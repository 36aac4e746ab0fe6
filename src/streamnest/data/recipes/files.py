"""Finding files, and writing them so that a killed run leaves the old ones whole."""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from streamnest.data.lines import open_text
from streamnest.errors import UserError
from streamnest.files.atomic_write import whole

READ = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf"}
"""What libsndfile decodes, by the end of the name."""
NOT_READ = {".m4a", ".mp4", ".aac", ".wma", ".webm", ".mkv", ".amr", ".sph", ".ape", ".mka"}
"""Audio that it does not."""
# The words of a paragraph, with their times, are one field.
csv.field_size_limit(2**27)


def walk(folder: Path, suffixes: set[str]) -> Iterator[Path]:
    """Files below a folder whose names end so, in order; links to folders are followed, hidden files are not."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    seen = set()
    for name, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(name)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(child for child in folders if not child.startswith("."))
        for file in sorted(files):
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in suffixes:
                yield Path(name, file)


def need(path: Path, corpus: str, layout: str) -> Path:
    """The path, if it exists.

    Raises:
        UserError: it does not; the message shows what the corpus should look like.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: {corpus} is expected as\n{layout}")
    return path


@contextmanager
def reading(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """A list in UTF-8, or UTF-16 with a mark, gzipped or not; other bytes become surrogates, which `is_utf8` finds.

    Args:
        path: file to read; a byte order mark at its beginning is skipped.
        newline: as for `open`.

    Raises:
        UserError: the file cannot be opened, unpacked or divided into rows.
    """
    try:
        with open_text(path, newline) as file:
            yield file
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}; was it copied or downloaded whole?") from error


def is_utf8(text: str | None) -> bool:
    """True for None and for a text that a file can hold."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """A text file, gzipped where its name says so, that takes its place only when it is complete."""
    with whole(path) as beside, beside.open("wb") as raw:
        if path.suffix == ".gz":
            # No time and no name inside: the same cuts make the same bytes.
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed, io.TextIOWrapper(packed, "utf-8") as text:
                yield text
        else:
            with io.TextIOWrapper(raw, "utf-8") as text:
                yield text
