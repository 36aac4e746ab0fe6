"""What a dataloader hands to the model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from streamnest.data.labels import Label


@dataclass
class Batch:
    """One collated batch of audio at 16 kHz, zero-padded at the end.

    Attributes:
        clean: `(B, N)` float32 in [-1, 1], what the targets are computed from.
        noisy: `(B, N)` float32, what the encoder hears; the same object as `clean` where nothing is mixed in at all.
        lengths: `(B,)` int64, valid samples of each row.
        keys: `(B,)` int64, `randomness.hash_id` of each cut id: every random draw for a row derives from it.
        step: number of this batch in the endless stream of batches, the same on every rank and after a resume.
        ids: cut ids, one a row.
        seconds: seconds of audio in the batch, padding excluded.
        skipped: utterances that could not be used, counted by cause.
        labels: text, speaker and the like of each row.
        due: utterances that were to be read for this batch, skipped ones included; None for one a row.
    """

    clean: Tensor
    noisy: Tensor
    lengths: Tensor
    keys: Tensor
    step: int
    ids: list[str]
    seconds: float
    skipped: dict[str, int] = field(default_factory=dict)
    labels: list[Label] = field(default_factory=list)
    due: int | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """A copy on a device. `noisy is clean` survives, so that features need not be computed twice."""
        clean = self.clean.to(device, non_blocking=non_blocking)
        return replace(
            self,
            clean=clean,
            noisy=clean if self.noisy is self.clean else self.noisy.to(device, non_blocking=non_blocking),
            lengths=self.lengths.to(device, non_blocking=non_blocking),
            keys=self.keys.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory; the dataloader calls it, as it does not know dataclasses."""
        clean = self.clean.pin_memory()
        noisy = clean if self.noisy is self.clean else self.noisy.pin_memory()
        return replace(self, clean=clean, noisy=noisy, lengths=self.lengths.pin_memory(), keys=self.keys.pin_memory())
