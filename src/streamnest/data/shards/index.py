"""Index of shards: the position of each cut, as arrays instead of objects."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamnest.data.shards.mapping import map_arrays

Ints = NDArray[np.int64]

FILE = "cuts.index.npz"
FORMATS = ("flac", "opus", "wav")


def tar_name(shard: int) -> str:
    """Returns the file name of the archive of a shard in Lhotse Shar."""
    return f"recording.{shard:06d}.tar"


def cuts_name(shard: int) -> str:
    """Returns the file name of the cuts of a shard in Lhotse Shar."""
    return f"cuts.{shard:06d}.jsonl.gz"


class Texts(Sequence[str]):
    """Strings stored as one array of bytes and one of end offsets: a tenth of the memory of Python strings."""

    def __init__(self, data: NDArray[np.uint8], ends: Ints) -> None:
        self.data, self.ends = data, ends

    @classmethod
    def pack(cls, texts: Iterable[str]) -> Texts:
        """Packs strings."""
        parts = [text.encode() for text in texts]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), np.uint8), ends)

    @classmethod
    def join(cls, parts: Sequence[Texts]) -> Texts:
        """Concatenates several sequences."""
        before = np.cumsum([0, *(len(part.data) for part in parts)])
        ends = np.concatenate([part.ends + start for part, start in zip(parts, before)])
        return cls(np.concatenate([part.data for part in parts]), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        start = self.ends[index - 1] if index else 0
        return self.data[start : self.ends[index]].tobytes().decode()


@dataclass
class ShardIndex:
    """Cuts in the order of the manifest; about 70 bytes each with ids of 30 characters, plus texts.

    Attributes:
        ids: `(N,)` cut ids.
        duration: `(N,)` float64 seconds, exactly as in the manifest.
        speaker: `(N,)` int32 index into `speakers`; -1 if unknown or several.
        shard: `(N,)` int32 number of the shard.
        offset: `(N,)` int64 first byte of the audio in the archive of the shard.
        size: `(N,)` int64 bytes of audio.
        speakers: speaker names.
        texts: `(N,)` transcripts, empty if unknown; old indices without texts have length 0.
        languages: `(N,)` languages, likewise.
        path: file that the arrays are mapped from; None if they are in memory.
    """

    ids: Texts
    duration: NDArray[np.float64]
    speaker: NDArray[np.int32]
    shard: NDArray[np.int32]
    offset: Ints
    size: Ints
    speakers: Texts
    texts: Texts = field(default_factory=lambda: Texts.pack([]))
    languages: Texts = field(default_factory=lambda: Texts.pack([]))
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.duration)

    def __getstate__(self) -> dict[str, Any]:
        # Spawned processes map the file themselves; pickling would read all of it.
        return {"path": self.path} if self.path else self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(ShardIndex.map(state["path"]).__dict__ if state["path"] else state)

    def save(self, path: Path, compressed: bool = True) -> None:
        """Writes an `.npz`; an uncompressed one is five times as large and can be memory-mapped."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ("speaker", *_PLAIN)}
        for name in _TEXTS:
            texts = getattr(self, name)
            arrays |= {f"{name}_data": texts.data, f"{name}_ends": texts.ends}
        with path.open("wb") as file:
            (np.savez_compressed if compressed else np.savez)(file, **arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> ShardIndex:
        """Reads the bytes of a file that `save` wrote.

        Raises:
            ValueError, KeyError, OSError, zipfile.BadZipFile: for other content.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls._of(arrays)

    @classmethod
    def map(cls, path: Path) -> ShardIndex:
        """Maps an uncompressed file that `save` wrote; its arrays stay on disk.

        Raises:
            ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile: for other content.
        """
        # Absolute, because the process that unpickles it may have another working folder.
        return cls._of(map_arrays(path), path.resolve())

    @classmethod
    def _of(cls, arrays: Mapping[str, Any], path: Path | None = None) -> ShardIndex:
        names = [name for name in _TEXTS if f"{name}_data" in arrays]
        values: dict[str, Any] = {name: Texts(arrays[f"{name}_data"], arrays[f"{name}_ends"]) for name in names}
        return cls(**values, **{name: arrays[name] for name in ("speaker", *_PLAIN)}, path=path)

    @classmethod
    def join(cls, parts: Sequence[ShardIndex]) -> ShardIndex:
        """Concatenates several indices."""
        names = sorted({name for part in parts for name in part.speakers})
        number = {name: i for i, name in enumerate(names)}
        recoded = []
        for part in parts:
            table = np.array([*(number[name] for name in part.speakers), -1], np.int32)
            recoded.append(table[part.speaker])
        texts: dict[str, Any] = {n: Texts.join([getattr(p, n) for p in parts]) for n in ("ids", "texts", "languages")}
        plain: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _PLAIN}
        return cls(speaker=np.concatenate(recoded), speakers=Texts.pack(names), **texts, **plain)


_PLAIN = ("duration", "shard", "offset", "size")
_TEXTS = ("ids", "speakers", "texts", "languages")


def count_samples(seconds: Any, sampling_rate: int) -> Any:
    """Converts seconds to samples, rounded as in Lhotse; for a number or an array."""
    counts = np.floor(np.round(np.asarray(seconds, np.float64) * sampling_rate, 8) + 0.5).astype(np.int64)
    return counts if counts.ndim else int(counts)
