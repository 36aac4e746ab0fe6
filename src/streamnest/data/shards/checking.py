"""Validation of an index of shards when it is opened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamnest.data.checking import LONGEST
from streamnest.data.shards.index import ShardIndex, Texts

# Entries checked at a time, to bound memory for an index of any size.
_AT_ONCE = 2**16
# Largest audio of a cut in bytes, and largest number of a shard (six digits).
_LARGEST, _LAST_SHARD = 2**32, 999_999


def check_index(index: ShardIndex) -> None:
    """Checks types, lengths and ranges of all arrays.

    Args:
        index: index as it was read, in memory or mapped.

    Raises:
        ValueError: for a violation, naming the array.
    """
    count = index.ids.ends.size
    for name, kind in (("duration", "f"), ("speaker", "i"), ("shard", "i"), ("offset", "i"), ("size", "i")):
        _need(name, getattr(index, name).dtype.kind == kind, f"holds {getattr(index, name).dtype}")
        _need(name, getattr(index, name).shape == (count,), f"has shape {getattr(index, name).shape}, not ({count},)")
    for name in ("ids", "speakers", "texts", "languages"):
        _check_texts(name, getattr(index, name))
    for name in ("texts", "languages"):
        _need(name, len(getattr(index, name)) in (0, count), f"{len(getattr(index, name))} entries, not {count}")
    for name in ("ids", "speakers", "languages"):
        _check_encoding(name, getattr(index, name))
    # NaN fails every comparison.
    _need_range("duration", index.duration, 0.0, LONGEST)
    _need_range("speaker", index.speaker, -1, len(index.speakers) - 1)
    _need_range("shard", index.shard, 0, _LAST_SHARD)
    _need_range("offset", index.offset, 0, 2**62)
    _need_range("size", index.size, 0, _LARGEST)


def _check_texts(name: str, texts: Texts) -> None:
    _need(name, texts.data.dtype == np.uint8 and texts.data.ndim == 1, "are not bytes")
    _need(name, texts.ends.dtype.kind == "i" and texts.ends.ndim == 1, "have ends that are not integers")
    last = 0
    for ends in _pieces(texts.ends):
        _need(name, int(ends[0]) >= last and bool((np.diff(ends) >= 0).all()), "have ends that decrease")
        last = int(ends[-1])
    _need(name, last == len(texts.data), f"end at byte {last} of {len(texts.data)}")


def _check_encoding(name: str, texts: Texts) -> None:
    """Checks that the concatenation is UTF-8 and that no text begins inside a character."""
    starts = 0
    for ends in _pieces(texts.ends):
        stop = int(ends[-1])
        texts.data[starts:stop].tobytes().decode()
        firsts = texts.data[ends[ends < len(texts.data)]]
        _need(name, not bool(((firsts & 0xC0) == 0x80).any()), "begin inside a character")
        starts = stop


def _need_range(name: str, values: NDArray[Any], low: float, high: float) -> None:
    for piece in _pieces(values):
        _need(name, bool(((piece >= low) & (piece <= high)).all()), f"has values outside {low:g} to {high:g}")


def _pieces(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))


def _need(name: str, condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(f"{name}: {otherwise}")
