"""Pieces and measured facts to Lhotse cuts."""

from __future__ import annotations

from collections.abc import Iterator

from lhotse import AudioSource, Recording, SupervisionSegment
from lhotse.cut import Cut

from streamnest.data.recipes.measuring import Facts
from streamnest.data.recipes.piece import Piece


def make_cuts(piece: Piece, facts: Facts, path: str) -> Iterator[Cut]:
    """The cuts of a piece: one, or one a segment.

    Args:
        piece: inside its file.
        facts: about the file.
        path: of the file as the manifest shall have it.
    """
    sources = [AudioSource("file", list(range(facts.channels)), path)]
    name = piece.id if piece.duration is None else _stem(piece)
    whole = Recording(name, sources, facts.sampling_rate, facts.num_samples, facts.duration).to_cut()
    if piece.divisible and facts.segments is not None:
        for start, end in facts.segments:
            # Named by its place: other limits must not give other audio the same name.
            yield _cut(whole, piece, f"{piece.id}-{round(start * 1000):08d}-{round(end * 1000):08d}", start, end)
    else:
        end = facts.duration if piece.duration is None else min(piece.start + piece.duration, facts.duration)
        yield _cut(whole, piece, piece.id, piece.start, end)


def _stem(piece: Piece) -> str:
    return f"{piece.path.parent.name}/{piece.path.stem}"


def _cut(whole: Cut, piece: Piece, name: str, start: float, end: float) -> Cut:
    cut = whole if (start, end) == (0.0, whole.duration) else whole.truncate(offset=start, duration=end - start)
    cut.id = name
    if piece.speaker or piece.text or piece.language:
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
