"""Files of one JSON object a line, in which one bad line costs one line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.errors import UserError

Parse = Callable[[dict[str, Any], str], Piece | Dropped]


def read_lines(path: Path, parse: Parse) -> Iterator[Piece | Dropped]:
    """What `parse(row, place)` makes of each line; a line that it, or JSON, cannot read becomes a `Dropped`.

    Args:
        path: plain, or gzipped where its name ends in .gz.
        parse: raises KeyError, TypeError, ValueError, IndexError or AttributeError for rows of another kind.

    Raises:
        UserError: the file cannot be opened or unpacked.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parse(line, f"{path}:{number}", parse)
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _parse(line: str, place: str, parse: Parse) -> Piece | Dropped:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise TypeError("not an object")
        return parse(row, place)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return Dropped(place, "broken line", f"{type(error).__name__}: {error}")
