"""Lhotse manifests of cuts or recordings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import AudioSource, Recording, SupervisionSegment
from lhotse.augmentation import AudioTransform, Resample, ReverbWithImpulseResponse, Speed, Tempo, Volume
from lhotse.cut import MixedCut, PaddingCut
from lhotse.cut.data import DataCut
from lhotse.serialization import deserialize_item
from lhotse.utils import fastcopy

from streamnest.console.redaction import redact
from streamnest.data.recipes.jsonlines import read_lines
from streamnest.data.recipes.options import Recipe, RecipeOptions
from streamnest.data.recipes.piece import Command, CutDetails, Dropped, Piece
from streamnest.errors import UserError
from streamnest.files.plain_data import short

LAYOUT = """  SOURCE is a file of cuts or recordings (.jsonl, .jsonl.gz), or a folder of files *cuts_PART.jsonl[.gz]
  paths in it are relative to --audio if supervision, else to the manifest"""


def read_lhotse(options: RecipeOptions) -> Iterator[Piece | Dropped]:
    """Reads cuts with position, channels, transforms, supervisions and plain custom fields, and whole recordings."""
    files = [options.source]
    if options.source.is_dir():
        files = sorted(path for path in options.source.glob("*cuts_*.jsonl*") if not path.name.startswith("."))
    if not files:
        raise UserError(f"{options.source} contains no cuts:\n{LAYOUT}")
    for path in files:
        part = options.part or (_part(path) if options.source.is_dir() else None)
        yield from read_lines(path, partial(_items, options=options, audio=options.audio or path.parent, part=part))


def _part(path: Path) -> str:
    return path.name.split(".")[0].rpartition("cuts_")[2]


def _items(
    row: dict[str, Any], location: str, options: RecipeOptions, audio: Path, part: str | None
) -> Iterator[Piece | Dropped]:
    # JSON escapes can encode lone surrogates, which cannot be written as UTF-8.
    json.dumps(row, ensure_ascii=False).encode()
    item = deserialize_item(row)
    if isinstance(item, (MixedCut, PaddingCut)):
        yield Dropped(location, "mixed or padded cut", item.id)
        return
    recording = item if isinstance(item, Recording) else getattr(item, "recording", None)
    source = recording.sources[0] if isinstance(recording, Recording) and len(recording.sources) == 1 else None
    if recording is None or source is None or source.type not in ("file", "command"):
        yield Dropped(location, "not one file of audio", str(getattr(item, "id", "")))
    elif source.type == "command" and not options.allow_commands:
        yield Dropped(location, "a command, not a file", f"{item.id}: {redact(str(source.source))}")
    elif fault := _fault(recording.transforms or []):
        yield Dropped(location, "transform that cannot be kept", f"{item.id}: {fault}")
    else:
        origin = {"path": audio / source.source, "part": part}
        if source.type == "command":
            origin = {"path": Path(recording.id), "part": part, "command": Command(source.source)}
        yield from [_whole(item, origin)] if isinstance(item, Recording) else _of_cut(item, source, origin, location)


def _whole(recording: Recording, origin: dict[str, Any]) -> Piece:
    details = _details(recording)
    return Piece(str(recording.id), divisible=not details.transforms, details=details, **origin)


def _of_cut(cut: DataCut, source: AudioSource, origin: dict[str, Any], location: str) -> Iterator[Piece | Dropped]:
    custom = {str(key): value for key, value in (cut.custom or {}).items() if _is_plain(value)}
    supervisions = tuple(map(_checked, cut.supervisions))
    left_out = sorted(set(cut.custom or {}) - set(custom)) + (["features"] if cut.has_features else [])
    if left_out:
        yield Dropped(location, "not audio of the cut", f"{cut.id}: {', '.join(left_out)} left out, the cut is kept")
    speakers = {each.speaker for each in supervisions}
    whole = not cut.start and abs(cut.duration - cut.recording.duration) < 1e-3
    yield Piece(
        str(cut.id),
        start=float(cut.start),
        duration=None if whole else float(cut.duration),
        speaker=speakers.pop() if len(speakers) == 1 and all(speakers) else None,
        channels=_channels(cut, source),
        details=_details(cut.recording, supervisions, custom),
        **origin,
    )


def _checked(segment: SupervisionSegment) -> SupervisionSegment:
    """Returns a supervision with string fields.

    Raises:
        TypeError, ValueError: for fields that are lists or the like, and for invalid times.
    """
    if not (math.isfinite(segment.start) and 0 <= segment.duration < math.inf):
        raise ValueError(f"supervision {segment.id} has a duration of {segment.duration} s at {segment.start} s")
    labels = {key: getattr(segment, key) for key in ("text", "speaker", "language")}
    if any(isinstance(value, (bool, list, dict)) for value in labels.values()):
        raise TypeError(f"supervision {segment.id} has fields that are not strings")
    return fastcopy(segment, id=str(segment.id), **{k: None if v is None else str(v) for k, v in labels.items()})


def _details(
    recording: Recording, supervisions: tuple[SupervisionSegment, ...] = (), custom: dict[str, Any] | None = None
) -> CutDetails:
    transforms = recording.transforms or []
    # Training resamples from the rate of the file, so a resampling can be left out if nothing else depends on it.
    kept = () if all(isinstance(t, Resample) for t in transforms) else tuple(transforms)
    speed = math.prod(t.factor for t in transforms if isinstance(t, (Speed, Tempo)))
    rates = [t.source_sampling_rate for t in transforms if isinstance(t, Resample)]
    rate, numbers = int([*rates, recording.sampling_rate][0]), tuple(recording.sources[0].channels)
    if any(type(number) is not int or number < 0 for number in numbers):
        raise TypeError(f"channels of {recording.id} are {short(recording.sources[0].channels)}")
    return CutDetails(supervisions, kept, speed, rate, numbers, custom or {})


def _channels(cut: DataCut, source: AudioSource) -> tuple[int, ...] | None:
    """Returns the positions of the channels of a cut in its file; None for all channels."""
    wanted = [cut.channel] if isinstance(cut.channel, int) else list(cut.channel)
    if not wanted:
        raise ValueError("a cut without a channel")
    return None if set(wanted) == set(source.channels) else tuple(source.channels.index(c) for c in wanted)


def _fault(transforms: list[AudioTransform]) -> str:
    """Returns the reason why transforms cannot be kept; empty if they can."""
    for transform in transforms:
        if isinstance(transform, (Speed, Tempo)) and not (0.1 <= transform.factor <= 10):
            return f"{type(transform).__name__} by {transform.factor}: need 0.1 to 10"
        if isinstance(transform, Volume) and not math.isfinite(transform.factor):
            return f"Volume by {transform.factor}: need a finite factor"
        if isinstance(transform, Resample) and not (1000 <= transform.target_sampling_rate <= 384_000):
            return f"resampling to {transform.target_sampling_rate} Hz: need 1000 to 384000"
        if isinstance(transform, ReverbWithImpulseResponse):
            return "a room"
        if not isinstance(transform, Resample) and (fault := _trial(json.dumps(transform.to_dict()))):
            return fault
    return ""


@cache
def _trial(transform: str) -> str:
    """Runs a transform on silence and returns its error, for example a missing package; empty for none."""
    try:
        AudioTransform.from_dict(json.loads(transform))(np.zeros((1, 1600), np.float32), 16000)
    # Transforms raise many exceptions.
    except Exception as error:
        return f"{json.loads(transform)['name']}: {type(error).__name__}: {error}"[:200]
    return ""


def _is_plain(value: Any) -> bool:
    """Returns True for values that JSON can hold, unlike arrays, features and recordings."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, (str, int))


RECIPES = {"lhotse": Recipe(read_lhotse, LAYOUT, ("audio", "part", "allow_commands"))}
