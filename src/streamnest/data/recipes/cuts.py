"""Conversion of pieces and their measurements to Lhotse cuts."""

from __future__ import annotations

from collections.abc import Iterator

from lhotse import AudioSource, Recording, SupervisionSegment
from lhotse.augmentation import Resample, Speed, Tempo
from lhotse.cut import Cut, MonoCut, MultiCut
from lhotse.utils import fastcopy

from streamnest.data.recipes.measuring import Measurement
from streamnest.data.recipes.piece import Piece


def make_cuts(piece: Piece, measurement: Measurement, path: str) -> Iterator[Cut]:
    """Yields the cuts of a piece: one, or one for each segment.

    Args:
        piece: an utterance or recording that lies inside its file.
        measurement: measurements of the file.
        path: path for the manifest; for a command, the command itself.
    """
    recording = _recording(piece, measurement, path)
    whole = _whole(recording, piece.channels)
    if piece.divisible and measurement.segments is not None:
        for start, end in measurement.segments:
            # The name holds the position, so that other limits never give the same name to other audio.
            yield _cut(whole, piece, f"{piece.id}-{round(start * 1000):08d}-{round(end * 1000):08d}", start, end)
    else:
        length = recording.duration
        end = length if piece.duration is None else min(piece.start + piece.duration, length)
        yield _cut(whole, piece, piece.id, piece.start, end)


def _recording(piece: Piece, measurement: Measurement, path: str) -> Recording:
    kind = "file" if piece.command is None else "command"
    sources = [AudioSource(kind, list(range(measurement.channels)), path)]
    name = piece.id if piece.duration is None else _stem(piece)
    recording = Recording(name, sources, measurement.sampling_rate, measurement.num_samples, measurement.duration)
    for transform in piece.details.transforms if piece.details else ():
        # These three change the length or the rate, which Lhotse tracks in separate methods.
        if isinstance(transform, Speed):
            recording = recording.perturb_speed(transform.factor, affix_id=False)
        elif isinstance(transform, Tempo):
            recording = recording.perturb_tempo(transform.factor, affix_id=False)
        elif isinstance(transform, Resample):
            recording = recording.resample(transform.target_sampling_rate)
        else:
            recording = fastcopy(recording, transforms=[*(recording.transforms or []), transform])
    return recording


def _whole(recording: Recording, channels: tuple[int, ...] | None) -> Cut:
    if channels is None:
        return recording.to_cut()
    if len(channels) == 1:
        return MonoCut(recording.id, 0.0, recording.duration, channels[0], recording=recording)
    return MultiCut(recording.id, 0.0, recording.duration, list(channels), recording=recording)


def _stem(piece: Piece) -> str:
    return f"{piece.path.parent.name}/{piece.path.stem}"


def _cut(whole: Cut, piece: Piece, name: str, start: float, end: float) -> Cut:
    cut = whole if (start, end) == (0.0, whole.duration) else whole.truncate(offset=start, duration=end - start)
    cut.id = name
    if piece.details:
        cut.custom = piece.details.custom or None
        same = {"recording_id": whole.recording.id, **({"channel": cut.channel} if isinstance(cut, MonoCut) else {})}
        cut.supervisions = [fastcopy(supervision, **same) for supervision in piece.details.supervisions]
    elif piece.speaker or piece.text or piece.language:
        cut.supervisions = [
            SupervisionSegment(
                id=name,
                recording_id=whole.recording.id,
                start=0.0,
                duration=cut.duration,
                channel=cut.channel,
                text=piece.text,
                language=piece.language,
                speaker=piece.speaker,
            )
        ]
    return cut
