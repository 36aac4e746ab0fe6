"""Reading of JSON-lines files; a bad line loses only that line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from streamnest.data.recipes.files import reading
from streamnest.data.recipes.piece import Dropped, Piece

Parse = Callable[[dict[str, Any], str], Piece | Dropped | Iterable[Piece | Dropped]]


def read_lines(path: Path, parse: Parse) -> Iterator[Piece | Dropped]:
    """Yields the result of `parse(row, location)` for each line; an unreadable line becomes a `Dropped`.

    Args:
        path: JSON-lines file, gzipped or not.
        parse: function that returns one item or several, and raises any exception for an unusable row.

    Raises:
        UserError: if the file cannot be opened or decompressed.
    """
    with reading(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield from _parse(line, f"{path}:{number}", parse)


def _parse(line: str, location: str, parse: Parse) -> list[Piece | Dropped]:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise TypeError("not an object")
        parsed = parse(row, location)
        return [parsed] if isinstance(parsed, (Piece, Dropped)) else list(parsed)
    # json and Lhotse raise many exceptions on foreign lines, for example for deep nesting or huge numbers.
    except Exception as error:
        return [Dropped(location, "broken line", f"{type(error).__name__}: {error}"[:300])]
