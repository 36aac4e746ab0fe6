"""Dataset of pieces of recordings: only the samples of a piece and its neighborhood are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from streamnest.data.audio import SAMPLING_RATE, BadAudioError, Samples
from streamnest.data.batch import Batch, Seams
from streamnest.data.dataset import SpeechDataset
from streamnest.data.sampling.piece_sampler import Piece, PieceIndex
from streamnest.data.shards.reading import ShardedCut

# Samples before and after a piece for its first and last analysis windows, 100 ms.
MARGIN = 1600


class _Row(NamedTuple):
    """A piece of audio: its part of the recording, its samples, and those before and after it."""

    cut: Any
    audio: Samples
    before: Samples
    after: Samples
    after_length: int


class PieceDataset(SpeechDataset):
    """Loads batches of pieces: row b of a batch continues row b of the batch before.

    Rows are padded to the length of a piece. Audio that cannot be read is replaced by silence, so that the recording
    goes on, and counted in `Batch.skipped`.

    Args:
        cuts: recordings.
        piece_samples: samples of a piece.
        arguments: other arguments of `SpeechDataset`.
        options: other arguments of `SpeechDataset` by name.
    """

    def __init__(self, cuts: Sequence[Any], piece_samples: int, *arguments: Any, **options: Any) -> None:
        super().__init__(cuts, *arguments, **options)
        self.piece_samples = piece_samples

    def __getitem__(self, index: PieceIndex) -> Batch:  # type: ignore[override]
        skipped: Counter[str] = Counter()
        rows = [self._read(piece, skipped) for piece in index.pieces]
        batch = self._collate([row.cut for row in rows], [row.audio for row in rows], index.step, skipped)
        padding = (0, self.piece_samples - batch.clean.shape[1])
        clean = torch.nn.functional.pad(batch.clean, padding)
        noisy = clean if batch.noisy is batch.clean else torch.nn.functional.pad(batch.noisy, padding)
        seams = Seams(
            before=torch.from_numpy(np.stack([row.before for row in rows])),
            after=torch.from_numpy(np.stack([row.after for row in rows])),
            after_lengths=torch.tensor([row.after_length for row in rows]),
            first=torch.tensor([piece.first for piece in index.pieces]),
            last=torch.tensor([piece.last for piece in index.pieces]),
        )
        return replace(batch, clean=clean, noisy=noisy, seams=seams, due=len(rows))

    def _read(self, piece: Piece, skipped: Counter[str]) -> _Row:
        cut = self.cuts[piece.recording]
        total, start = int(cut.duration * SAMPLING_RATE + 1e-3), piece.number * self.piece_samples
        length = min(self.piece_samples, total - start)
        begin, end = start if piece.first else start - MARGIN, min(total, start + length + MARGIN)
        # The id has the piece, so that random choices differ between the pieces of a recording.
        part = part_of(cut, begin, end - begin, f"{cut.id}/{piece.number}")
        audio = np.zeros(2 * MARGIN + self.piece_samples, np.float32)
        at = begin - start + MARGIN
        samples = self._audio((piece.recording, begin), part, skipped)
        if samples is not None:
            samples = samples[: end - begin]
            audio[at : at + len(samples)] = samples
        return _Row(
            part,
            audio[MARGIN : MARGIN + length],
            audio[:MARGIN],
            audio[MARGIN + length : 2 * MARGIN + length],
            end - start - length,
        )

    def _decode(self, cut: Any) -> Samples:
        """Reads a piece; a constant one is a pause in its recording, and not bad as a constant recording is."""
        try:
            return super()._decode(cut)
        except BadAudioError as error:
            if error.cause != "constant":
                raise
            return np.zeros(cut.num_samples, np.float32)


def part_of(cut: Any, start: int, count: int, name: str) -> Any:
    """Returns a part of a cut, from its first sample and its number of samples, under another id."""
    if isinstance(cut, ShardedCut):
        seconds = count / SAMPLING_RATE
        return replace(cut, id=name, start=cut.start + start, num_samples=count, duration=seconds)
    part = cut.truncate(offset=start / SAMPLING_RATE, duration=count / SAMPLING_RATE, preserve_id=True)
    part.id = name
    return part
