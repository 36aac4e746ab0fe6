"""The lines of text files from anywhere: packed or not, in the encodings that editors write, damaged."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from streamnest.errors import UserError

# Characters of a line: memory is needed for several copies of it. A cut has a few hundred.
_LONGEST = 2**25
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and texts of the lines of a file that are not blank.

    Bytes that are not text become surrogates, which `str.encode` refuses, so that nothing is replaced silently.

    Args:
        path: of UTF-8 or, with a mark at its start, UTF-16; gzipped where its name or its first bytes say so.

    Raises:
        UserError: for a file that is missing, damaged or has endless lines.
    """
    try:
        with open_text(path) as file:
            for number, line in enumerate(iter(partial(file.readline, _LONGEST), ""), 1):
                if len(line) == _LONGEST:
                    raise UserError(f"{path}:{number}: longer than {_LONGEST} characters: this is not a list of lines")
                # Files with marks are joined by `cat`.
                if line := line.strip().lstrip("\ufeff"):
                    yield number, line
    except (FileNotFoundError, UserError):
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def open_text(path: Path, newline: str | None = None) -> IO[str]:
    """A file of text to read, in the encodings of `numbered_lines`; the mark at its start is left out.

    Args:
        path: of the file.
        newline: as for `open`.
    """
    file: Any = path.open("rb")
    # Peeked at and not opened twice: it may be a pipe.
    if path.suffix == ".gz" or file.peek(2)[:2] == b"\x1f\x8b":
        file = io.BufferedReader(gzip.GzipFile(fileobj=file))
    if file.peek(2)[:2] in _UTF_16:
        return io.TextIOWrapper(file, "utf-16", newline=newline)
    return io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline=newline)
