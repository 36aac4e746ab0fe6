"""What a dataloader hands to the model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Batch:
    """One collated batch of audio at 16 kHz, zero-padded at the end.

    Attributes:
        clean: `(B, N)` float32 in [-1, 1], what the targets are computed from.
        noisy: `(B, N)` float32, what the encoder hears; equals `clean` where nothing was mixed in.
        lengths: `(B,)` int64, valid samples of each row.
        keys: `(B,)` int64, `randomness.hash_id` of each cut id: every random draw for a row derives from it.
        step: number of this batch in the endless stream of batches, the same on every rank and after a resume.
        ids: cut ids, one a row.
        seconds: seconds of audio in the batch, padding excluded.
    """

    clean: Tensor
    noisy: Tensor
    lengths: Tensor
    keys: Tensor
    step: int
    ids: list[str]
    seconds: float
