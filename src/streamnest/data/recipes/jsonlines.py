"""Files of one JSON object a line, in which one bad line costs one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from streamnest.data.recipes.files import reading
from streamnest.data.recipes.piece import Dropped, Piece

Parse = Callable[[dict[str, Any], str], Piece | Dropped | Iterable[Piece | Dropped]]


def read_lines(path: Path, parse: Parse) -> Iterator[Piece | Dropped]:
    """What `parse(row, place)` makes of each line; a line that it, or JSON, cannot read becomes a `Dropped`.

    Args:
        path: plain, or gzipped where its name ends in .gz.
        parse: returns one item or several; raises anything for rows of another kind.

    Raises:
        UserError: the file cannot be opened or unpacked.
    """
    with reading(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield from _parse(line, f"{path}:{number}", parse)


def _parse(line: str, place: str, parse: Parse) -> list[Piece | Dropped]:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise TypeError("not an object")
        found = parse(row, place)
        return [found] if isinstance(found, (Piece, Dropped)) else list(found)
    # Whatever a foreign line does to json or Lhotse, deep nesting and huge numbers included, it is a bad line.
    except Exception as error:
        return [Dropped(place, "broken line", f"{type(error).__name__}: {error}"[:300])]
