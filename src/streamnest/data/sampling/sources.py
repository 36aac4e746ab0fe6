"""Sources of a corpus: cut manifests and folders of shards, optionally with names and weights."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamnest.console.redaction import refuse_secrets
from streamnest.data.manifest import LoadReport, load_cuts
from streamnest.data.sampling.durations import Durations, LazyDurations
from streamnest.data.shards.reading import load_shards
from streamnest.data.shards.store import is_url
from streamnest.errors import UserError

# Durations that a digest reads at once, and ids that it reads in total.
_SLICE, _MOST_IDS = 2**20, 2**16


class Source(NamedTuple):
    """A manifest or folder of shards. `weight` is its relative share of the audio; None without mixing."""

    name: str
    path: str
    weight: float | None = None


def parse_sources(spec: Any) -> list[Source]:
    """Parses sources from a config: None, a path, a list of paths, or a mapping of names to paths or path and weight.

    Raises:
        UserError: for anything else.
    """
    if spec is None or isinstance(spec, (str, Path)):
        return [Source(str(spec), str(spec))] if spec else []
    if isinstance(spec, Mapping):
        return [_named(str(name), value) for name, value in spec.items()]
    if isinstance(spec, Sequence):
        return [source for item in spec for source in parse_sources(item)]
    raise UserError(f"{spec!r}: name a path, a list of paths, or {{name: {{path: ..., weight: ...}}}}")


def _named(name: str, value: Any) -> Source:
    if isinstance(value, (str, Path)):
        return Source(name, str(value))
    if not isinstance(value, Mapping) or "path" not in value or not set(value) <= {"path", "weight"}:
        raise UserError(f"source {name}: {value!r}: name a path, or {{path: ..., weight: ...}}")
    weight = value.get("weight")
    if weight is not None and not (isinstance(weight, (int, float)) and 0 < weight < float("inf")):
        raise UserError(f"source {name}: weight={weight!r}: need a number above 0; to disable a source, leave it out")
    return Source(name, str(value["path"]), weight)


def load_source(path: str, **options: Any) -> tuple[Sequence[Any], LoadReport]:
    """Reads the usable cuts of a manifest (see `load_cuts`) or of shards (see `load_shards`), and the report."""
    refuse_secrets(path)
    shards = Path(path).is_dir() or (is_url(path) and not path.endswith((".jsonl", ".jsonl.gz")))
    return load_shards(path, **options) if shards else load_cuts(path, **options)


class Corpus(Sequence[Any]):
    """The concatenated cuts of several sources."""

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self.parts = parts
        self._ends = list(accumulate(len(part) for part in parts))

    @property
    def sizes(self) -> list[int]:
        """Number of cuts of each source."""
        return [len(part) for part in self.parts]

    @property
    def durations(self) -> NDArray[np.float64]:
        """Seconds of each cut, `(len,)`."""
        return np.concatenate([durations(part) for part in self.parts]) if self.parts else np.zeros(0)

    @property
    def lazy_durations(self) -> Durations:
        """Durations that are read slice by slice if the sources support it."""
        parts = [lazy_durations(part) for part in self.parts]
        return parts[0] if len(parts) == 1 else LazyDurations(len(self), partial(_read_across, parts, self._ends))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self._ends, index)
        return self.parts[part][index - (self._ends[part] - len(self.parts[part]))]

    def __iter__(self) -> Iterator[Any]:
        return (cut for part in self.parts for cut in part)


def durations(cuts: Sequence[Any]) -> NDArray[np.float64]:
    """Returns the seconds of each cut, `(len,)`, from an index if there is one."""
    indexed = getattr(cuts, "durations", None)
    return np.array([cut.duration for cut in cuts], np.float64) if indexed is None else indexed


def lazy_durations(cuts: Sequence[Any]) -> Durations:
    """Returns the seconds of each cut, read slice by slice if there is an index."""
    indexed = getattr(cuts, "lazy_durations", None)
    return durations(cuts) if indexed is None else indexed


def digest(cuts: Sequence[Any]) -> str:
    """Computes a checksum of durations and ids; of a very large corpus, only some of the ids are read."""
    checksum, seconds = hashlib.blake2b(digest_size=16), lazy_durations(cuts)
    for start in range(0, len(seconds), _SLICE):
        checksum.update(np.ascontiguousarray(seconds[start : start + _SLICE], np.float64).tobytes())
    for index in range(0, len(cuts), max(1, len(cuts) // _MOST_IDS)):
        checksum.update(f"{cuts[index].id}\n".encode())
    return checksum.hexdigest()


def _read_across(parts: Sequence[Durations], ends: Sequence[int], start: int, stop: int) -> NDArray[np.float64]:
    """Reads a slice of several concatenated arrays."""
    slices = [np.zeros(0)]
    for part, end in zip(parts, ends):
        before = end - len(part)
        if before < stop and start < end:
            slices.append(part[max(0, start - before) : stop - before])
    return np.concatenate(slices)
