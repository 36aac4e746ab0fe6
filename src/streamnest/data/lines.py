"""Reading of text files line by line: compressed or not, in UTF-8 or UTF-16, possibly damaged."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from streamnest.errors import UserError, cause_of

# Maximum characters of a line, which is copied several times in memory. A cut has a few hundred.
_LONGEST = 2**25
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the number, from 1, and the text of each line of a file that is not blank.

    Invalid bytes become surrogates, which `str.encode` refuses, so that nothing is replaced silently.

    Args:
        path: text in UTF-8 or, with a byte order mark, UTF-16; gzipped if its name ends in .gz or its first bytes are
            those of gzip.

    Raises:
        UserError: if the file is damaged or has an extremely long line.
        FileNotFoundError: if there is no such file.
    """
    try:
        with open_text(path) as file:
            for number, line in enumerate(iter(partial(file.readline, _LONGEST), ""), 1):
                if len(line) == _LONGEST:
                    raise UserError(
                        f"{path}:{number}: line of more than {_LONGEST} characters; need one entry per line"
                    )
                # Concatenated files have byte order marks inside.
                if line := line.strip().lstrip("\ufeff"):
                    yield number, line
    except (FileNotFoundError, UserError):
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {cause_of(error)}") from error


def open_text(path: Path, newline: str | None = None) -> IO[str]:
    """Opens a text file in one of the encodings of `numbered_lines`, without the byte order mark.

    Args:
        path: file to open.
        newline: argument of `open`.
    """
    file: Any = path.open("rb")
    # The file is not opened twice, because it may be a pipe.
    if path.suffix == ".gz" or file.peek(2)[:2] == b"\x1f\x8b":
        file = io.BufferedReader(gzip.GzipFile(fileobj=file))
    if file.peek(2)[:2] in _UTF_16:
        return io.TextIOWrapper(file, "utf-16", newline=newline)
    return io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline=newline)
