"""Builds the index of shards by reading them: of one shard, or of Lhotse Shar that another program wrote."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from lhotse import SupervisionSegment

from streamnest.data.checking import LONGEST, check_name, check_number, check_supervision, command_in
from streamnest.data.lines import numbered_lines
from streamnest.data.shards.index import FILE, ShardIndex, Texts, count_samples, cuts_name, tar_name
from streamnest.data.shards.plan import PLAN, Plan
from streamnest.data.shards.store import FolderStore
from streamnest.errors import UserError
from streamnest.files.plain_data import first_line

Track = Callable[[Sequence[int]], Any]


class _Entry(NamedTuple):
    """Entry of one cut while an index is built."""

    cut_id: str
    duration: float
    speaker: str
    text: str
    language: str
    offset: int
    size: int


def index_folder(folder: Path, sampling_rate: int = 16000, track: Track = iter) -> ShardIndex:
    """Reads every shard of a folder once and writes the index; existing files are not changed.

    Args:
        folder: folder with `cuts.NNNNNN.jsonl.gz` and `recording.NNNNNN.tar`.
        sampling_rate: sampling rate of the audio in Hz.
        track: wrapper of the iterator over shard numbers, such as a progress bar.

    Raises:
        UserError: if there are no shards, if there is an index, or if audio differs from its cut in rate or length.
    """
    numbers, of_cuts = _numbers(folder, r"recording\.(\d{6})\.tar"), _numbers(folder, r"cuts\.(\d{6})\.jsonl\.gz")
    store = FolderStore(folder)
    if not numbers:
        raise UserError(f"{folder}: no recording.NNNNNN.tar in this folder")
    if alone := sorted({*numbers} ^ {*of_cuts}):
        missing = (cuts_name if alone[0] in numbers else tar_name)(alone[0])
        raise UserError(f"{folder / missing} is missing, but the other half of its shard exists: copy both")
    if store.size(PLAN) is not None:
        raise UserError(f"{folder}: already has an index")
    index = ShardIndex.join([index_shard(folder, number, sampling_rate) for number in track(numbers)])
    plan = Plan("as found", 0, sampling_rate, len(index), "")
    with store.workspace() as unfinished:
        index.save(unfinished / FILE, compressed=False)
        (unfinished / PLAN).write_text(json.dumps(asdict(plan), indent=1) + "\n", encoding="utf-8")
        # The plan comes last, because it marks the folder as complete shards.
        for name in (FILE, PLAN):
            store.put(name, unfinished / name)
    store.clear(unfinished.parent.name)
    return index


def index_shard(folder: Path, shard: int, sampling_rate: int) -> ShardIndex:
    """Reads a shard back and checks that every cut has audio of its length; a shard without files is empty.

    Raises:
        UserError: for cuts without their audio, another sampling rate, damaged or truncated files, and cuts that name
            commands.
    """
    tar = folder / tar_name(shard)
    cuts = _read_cuts(folder / cuts_name(shard))
    try:
        entries = list(_entries(tar, cuts, sampling_rate)) if cuts or tar.is_file() else []
    except UserError:
        raise
    # Archives and decoders raise many exceptions on damaged files.
    except Exception as error:
        raise UserError(f"{tar}: cannot be read: {type(error).__name__}: {first_line(error)}") from error
    names = sorted({entry.speaker for entry in entries} - {""})
    number = {"": -1, **{name: i for i, name in enumerate(names)}}
    return ShardIndex(
        ids=Texts.pack(entry.cut_id for entry in entries),
        duration=np.array([entry.duration for entry in entries], np.float64),
        speaker=np.array([number[entry.speaker] for entry in entries], np.int32),
        shard=np.full(len(entries), shard, np.int32),
        offset=np.array([entry.offset for entry in entries], np.int64),
        size=np.array([entry.size for entry in entries], np.int64),
        speakers=Texts.pack(names),
        texts=Texts.pack(entry.text for entry in entries),
        languages=Texts.pack(entry.language for entry in entries),
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


def _entries(tar: Path, cuts: list[dict[str, Any]], sampling_rate: int) -> Iterable[_Entry]:
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
            yield _Entry(cut["id"], cut["duration"], speaker, text, language, member.offset_data, member.size)


def _single(values: Iterable[str | None]) -> str:
    """Returns the common value; empty if the values differ or there are none."""
    found = {value or "" for value in values}
    return found.pop() if len(found) == 1 else ""


def _numbers(folder: Path, pattern: str) -> list[int]:
    """Returns the sorted numbers of the shards with a matching file."""
    return sorted(int(found[1]) for path in folder.glob("*") if (found := re.fullmatch(pattern, path.name)))
