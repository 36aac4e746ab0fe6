"""Listing, reading and atomic writing of corpus files."""

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
from streamnest.errors import UserError, cause_of
from streamnest.files.atomic_write import whole

READ = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf"}
"""File name suffixes that libsndfile decodes."""
NOT_READ = {".m4a", ".mp4", ".aac", ".wma", ".webm", ".mkv", ".amr", ".sph", ".ape", ".mka"}
"""File name suffixes of audio that libsndfile does not decode."""
# Some corpora store all words of a paragraph, with their times, in one field.
csv.field_size_limit(2**27)


def walk(folder: Path, suffixes: set[str]) -> Iterator[Path]:
    """Yields the files below a folder with one of the suffixes, in order; follows links, skips hidden files."""

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
    """Returns the path if it exists.

    Raises:
        UserError: if it does not exist; the message shows the expected layout of the corpus.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: {corpus} is expected as\n{layout}")
    return path


@contextmanager
def reading(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """Opens a list in UTF-8, or in UTF-16 with a byte order mark, gzipped or not.

    Bytes in other encodings become surrogates, which `is_utf8` detects.

    Args:
        path: file to read; a byte order mark at its beginning is skipped.
        newline: line separator, as for `open`.

    Raises:
        UserError: if the file cannot be opened, decompressed or split into rows.
    """
    try:
        with open_text(path, newline) as file:
            yield file
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {cause_of(error)}; copy or download it again") from error


def is_utf8(text: str | None) -> bool:
    """Returns True for None and for text that can be written as UTF-8."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Opens a text file for writing, gzipped if its name ends in .gz; it replaces the old one when it is complete."""
    with whole(path) as beside, beside.open("wb") as raw:
        if path.suffix == ".gz":
            # Without time and name in the header, the same cuts give the same bytes.
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed, io.TextIOWrapper(packed, "utf-8") as text:
                yield text
        else:
            with io.TextIOWrapper(raw, "utf-8") as text:
                yield text
