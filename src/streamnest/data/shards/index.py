"""Index of shards: the position of each cut, as arrays instead of objects."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from lhotse import SupervisionSegment
from numpy.typing import NDArray

from streamnest.data.checking import LONGEST, check_name, check_number, check_supervision, command_in
from streamnest.data.lines import numbered_lines
from streamnest.data.shards.mapping import map_arrays
from streamnest.errors import UserError
from streamnest.files.plain_data import first_line

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


class _Place(NamedTuple):
    """Entry of one cut while an index is built."""

    cut_id: str
    duration: float
    speaker: str
    text: str
    language: str
    offset: int
    size: int


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


def index_shard(folder: Path, shard: int, sampling_rate: int) -> ShardIndex:
    """Reads a shard back and checks that every cut has audio of its length; a shard without files is empty.

    Raises:
        UserError: for cuts without their audio, another sampling rate, damaged or truncated files, and cuts that name
            commands.
    """
    tar = folder / tar_name(shard)
    cuts = _read_cuts(folder / cuts_name(shard))
    try:
        places = list(_places(tar, cuts, sampling_rate)) if cuts or tar.is_file() else []
    except UserError:
        raise
    # Archives and decoders raise many exceptions on damaged files.
    except Exception as error:
        raise UserError(f"{tar}: cannot be read: {type(error).__name__}: {first_line(error)}") from error
    names = sorted({place.speaker for place in places} - {""})
    number = {"": -1, **{name: i for i, name in enumerate(names)}}
    return ShardIndex(
        ids=Texts.pack(place.cut_id for place in places),
        duration=np.array([place.duration for place in places], np.float64),
        speaker=np.array([number[place.speaker] for place in places], np.int32),
        shard=np.full(len(places), shard, np.int32),
        offset=np.array([place.offset for place in places], np.int64),
        size=np.array([place.size for place in places], np.int64),
        speakers=Texts.pack(names),
        texts=Texts.pack(place.text for place in places),
        languages=Texts.pack(place.language for place in places),
    )


def _read_cuts(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    cuts = []
    for number, line in numbered_lines(path):
        try:
            cut = json.loads(line)
            command = command_in(cut)
            cut["id"], cut["duration"], cut["supervisions"] = _checked(cut)
        # As in manifests: json raises many exceptions on foreign lines.
        except Exception as error:
            raise UserError(f"{path}:{number}: broken line: {type(error).__name__}: {error}") from error
        if command is not None:
            raise UserError(f"{path}:{number}: names a command, which is not allowed in shards: {command[:200]!r}")
        cuts.append(cut)
    return cuts


def _checked(cut: dict[str, Any]) -> tuple[str, float, list[dict[str, Any]]]:
    """Returns id, duration and supervisions of a cut after checking their types."""
    parts = [SupervisionSegment.from_dict(part) for part in cut.get("supervisions", [])]
    for part in parts:
        check_supervision(part)
    return check_name(cut["id"], "id"), check_number(cut["duration"], "duration", 0, LONGEST), [vars(p) for p in parts]


def _places(tar: Path, cuts: list[dict[str, Any]], sampling_rate: int) -> Iterable[_Place]:
    with tarfile.open(tar) as archive, tar.open("rb") as file:
        members = [member for member in archive if not member.name.endswith(".json")]
        if len(members) != len(cuts):
            raise UserError(f"{tar}: {len(members)} recordings for {len(cuts)} cuts")
        for cut, member in zip(cuts, members):
            file.seek(member.offset_data)
            info = soundfile.info(io.BytesIO(file.read(member.size)))
            expected = (cut["id"], sampling_rate, count_samples(cut["duration"], sampling_rate))
            found = (member.name.rpartition(".")[0], info.samplerate, info.frames)
            if found != expected:
                raise UserError(f"{tar}: id, rate and samples are {found}, expected {expected}")
            parts = sorted(cut["supervisions"], key=lambda part: part["start"])
            text = " ".join(part["text"].strip() for part in parts if (part.get("text") or "").strip())
            speaker, language = (_single(part.get(key) for part in parts) for key in ("speaker", "language"))
            yield _Place(cut["id"], cut["duration"], speaker, text, language, member.offset_data, member.size)


def _single(values: Iterable[str | None]) -> str:
    """Returns the common value; empty if the values differ or there are none."""
    found = {value or "" for value in values}
    return found.pop() if len(found) == 1 else ""


def count_samples(seconds: Any, sampling_rate: int) -> Any:
    """Converts seconds to samples, rounded as in Lhotse; for a number or an array."""
    counts = np.floor(np.round(np.asarray(seconds, np.float64) * sampling_rate, 8) + 0.5).astype(np.int64)
    return counts if counts.ndim else int(counts)
