"""Validation of a line of a cut manifest before Lhotse and training use it."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lhotse import Recording, SupervisionSegment
from lhotse.cut import Cut, MixedCut, PaddingCut
from lhotse.cut.data import DataCut

from streamnest.data.audio_ranges import HIGHEST_RATE, LOWEST_RATE

LONGEST = 7 * 24 * 3600.0
"""Maximum seconds of a cut: longer ones are errors, and would become millions of windows."""

_MOST_TRACKS, _MOST_CHANNELS = 1000, 1000
_FACTORS = {"Speed": (0.1, 10.0), "Tempo": (0.1, 10.0)}


class BadLineError(Exception):
    """Error in a line that cannot be used as a cut.

    Attributes:
        cause: `broken line`, `no audio` or `missing file`.
    """

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yields all objects in a JSON value, at any depth."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def command_in(data: Any) -> str | None:
    """Returns a shell command that loading anything in a line would run; None if there is none.

    Lhotse runs sources of type `command`, everything that starts with `pipe:`, and converters of NIST SPHERE files,
    with unquoted file names.
    """
    for item in objects(data):
        source = item.get("source") if item.keys() >= {"type", "channels", "source"} else None
        if source is not None and item["type"] == "command":
            return str(source)
        for location in (source, item.get("storage_path")):
            if isinstance(location, str) and _runs(location):
                return location
    return None


def _runs(location: str) -> bool:
    """True if the shell opens a file or URL, or its name becomes part of a shell command."""
    forced = "Subprocess" in os.environ.get("LHOTSE_AUDIO_BACKEND", "")
    opus = os.environ.get("LHOTSE_LEGACY_OPUS_LOADING") == "1"
    converted = forced or location.lower().endswith((".sph", ".opus") if opus else ".sph")
    return location.strip().lower().startswith("pipe:") or (converted and shlex.quote(location) != location)


def anchor(data: dict[str, Any], folder: Path) -> list[str]:
    """Prefixes the audio files of a line with the folder of the manifest; returns them.

    Raises:
        BadLineError: for audio that is neither a file, a URL nor the output of a command.
    """
    tracks = [*data["tracks"], data.get("snr_reference")] if "tracks" in data else [{"cut": data}]
    recordings = [track["cut"].get("recording") for track in tracks if track]
    sources = [source for recording in recordings if recording for source in recording["sources"]]
    for source in sources:
        # Only the audio of a video is read; for videos Lhotse would silently pad or truncate it.
        source.pop("video", None)
        if source["type"] == "file":
            source["source"] = str(folder / source["source"])
        elif source["type"] not in ("url", "command"):
            raise BadLineError("no audio", f"a source of type {source['type']!r}")
    return [source["source"] for source in sources if source["type"] == "file"]


def check_cut(cut: Any) -> Cut:
    """Checks the types and ranges of all values of a cut that training uses; converts numeric names to text.

    Raises:
        BadLineError: for a value that is not valid.
    """
    if not isinstance(cut, Cut) or not cut.has_recording:
        raise BadLineError("no audio", f"a {type(cut).__name__} without a recording")
    cut.id = check_name(cut.id, "id")
    if isinstance(cut, MixedCut):
        _need(1 <= len(cut.tracks) <= _MOST_TRACKS, f"{len(cut.tracks)} tracks")
        for track in cut.tracks:
            check_number(track.offset, "offset of a track", 0, LONGEST)
            _need(track.snr is None or _finite(track.snr), f"snr of a track is {track.snr!r}")
            _need(isinstance(track.cut, (DataCut, PaddingCut)), f"a track is a {type(track.cut).__name__}")
            _check_part(track.cut)
    else:
        _check_part(cut)
    check_number(cut.duration, "duration", 0, LONGEST)
    _need(cut.duration > 0, "duration is 0")
    return cut


def _check_part(cut: Cut) -> None:
    cut.id = check_name(cut.id, "id")
    check_number(cut.duration, "duration", 0, LONGEST)
    if isinstance(cut, PaddingCut):
        return
    check_number(cut.start, "start", 0, LONGEST)
    channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
    _need(0 < len(channels) <= _MOST_CHANNELS and all(map(_count, channels)), f"channel is {cut.channel!r}")
    _need(cut.custom is None or isinstance(cut.custom, dict), f"custom is a {type(cut.custom).__name__}")
    if cut.recording is not None:
        _check_recording(cut.recording)
        known = cut.recording.channel_ids
        _need(len(set(known)) == len(known), f"channels of the recording are {known!r}")
        _need(set(channels) <= set(known), f"channel is {cut.channel!r}, but the recording has {known!r}")
    for supervision in cut.supervisions:
        check_supervision(supervision)


def _check_recording(recording: Recording) -> None:
    check_number(recording.duration, "duration of the recording", 0, LONGEST)
    check_number(recording.sampling_rate, "sampling_rate", LOWEST_RATE, HIGHEST_RATE)
    for key in ("sampling_rate", "num_samples"):
        value = getattr(recording, key)
        _need(_finite(value) and value >= 0 and value == int(value), f"{key} is {value!r}")
        setattr(recording, key, int(value))
    recording.id = check_name(recording.id, "id of the recording")
    for transform in recording.transforms or ():
        _check_transform(type(transform).__name__, vars(transform))


def _check_transform(name: str, options: dict[str, Any]) -> None:
    if name in _FACTORS:
        check_number(options["factor"], f"factor of {name}", *_FACTORS[name])
    if name == "Resample":
        for rate in options.values():
            check_number(rate, "rate of Resample", LOWEST_RATE, HIGHEST_RATE)


def check_supervision(supervision: SupervisionSegment) -> None:
    """Checks the times of a supervision, and that speaker, language and text are strings."""
    for key in ("start", "duration"):
        _need(_finite(getattr(supervision, key)), f"{key} of a supervision is {getattr(supervision, key)!r}")
    for key in ("speaker", "language"):
        value = getattr(supervision, key)
        setattr(supervision, key, None if value is None else check_name(value, key))
    _need(supervision.text is None or _text(supervision.text), f"text is {supervision.text!r}")


def check_name(value: Any, what: str) -> str:
    """Returns a name as text; some manifests use numbers as names."""
    name = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    _need(_text(name), f"{what} is {value!r}")
    return str(name)


def _text(value: Any) -> bool:
    """True for a string that can be encoded, which lone surrogates cannot."""
    return isinstance(value, str) and value.encode(errors="replace").decode() == value


def check_number(value: Any, what: str, low: float, high: float) -> float:
    """Checks that a value is a number in a range."""
    _need(_finite(value) and low <= value <= high, f"{what} is {value!r}: need {low:g} to {high:g}")
    return float(value)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise BadLineError("broken line", message)
