"""The batch that a data loader passes to the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from streamnest.data.labels import Label


@dataclass
class Seams:
    """Neighborhood of the rows of a batch in their recordings, if rows are pieces of recordings (`data.piece_s`).

    Attributes:
        before: `(B, n)` samples before each row; zeros if a stream begins in the row.
        after: `(B, n)` samples after each row; zeros past the end of the recording.
        after_lengths: `(B,)` samples in `after` before the end of the recording.
        first: `(B,)` True if a stream begins in the row: no state is carried into it.
        last: `(B,)` True if the recording ends in the row.
    """

    before: Tensor
    after: Tensor
    after_lengths: Tensor
    first: Tensor
    last: Tensor

    def apply(self, function: Callable[[Tensor], Tensor]) -> Seams:
        """Returns the seams with a function applied to each tensor."""
        return Seams(**{name: function(x) for name, x in vars(self).items()})


@dataclass
class Batch:
    """One collated batch of audio at 16 kHz, zero-padded at the end.

    Attributes:
        clean: `(B, N)` float32 in [-1, 1], from which the targets are computed.
        noisy: `(B, N)` float32, the input of the encoder; the same object as `clean` if no row is augmented.
        lengths: `(B,)` int64, valid samples of each row.
        keys: `(B,)` int64, `randomness.hash_id` of each cut id: all random choices for a row derive from it.
        step: index of this batch in the endless stream of batches, the same on every rank and after a resume.
        ids: cut id of each row.
        seconds: seconds of audio in the batch, padding excluded.
        skipped: number of utterances that could not be used, by cause.
        labels: text, speaker and language of each row.
        hashes: hash of the clean samples of each row, which identifies them in caches; empty if it is not needed.
        due: number of utterances to read for this batch, skipped ones included; None if each row is one utterance.
        seams: neighborhood of each row if rows are pieces of recordings; None if they are utterances.
        host: lengths and keys on the CPU, kept by `to`; None if it was not called.
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
    hashes: list[bytes] = field(default_factory=list)
    due: int | None = None
    seams: Seams | None = None
    # Not an argument, so that `replace` never keeps those of other rows.
    host: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    def on_host(self) -> tuple[Tensor, Tensor]:
        """Returns lengths and keys on the CPU; only a batch that was made on a device waits for it."""
        return self.host or (self.lengths.cpu(), self.keys.cpu())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Copies the batch to a device. `noisy is clean` is preserved, so that features are not computed twice.

        Copies from the host never wait for the device, also if the caller does not ask for it, as Lightning.
        """
        non_blocking = non_blocking or self.clean.device.type == "cpu"
        host, clean = self.on_host(), self.clean.to(device, non_blocking=non_blocking)
        moved = replace(
            self,
            clean=clean,
            noisy=clean if self.noisy is self.clean else self.noisy.to(device, non_blocking=non_blocking),
            lengths=self.lengths.to(device, non_blocking=non_blocking),
            keys=self.keys.to(device, non_blocking=non_blocking),
            seams=self.seams and self.seams.apply(lambda x: x.to(device, non_blocking=non_blocking)),
        )
        moved.host = host
        return moved

    def pin_memory(self) -> Batch:
        """Copies the batch to page-locked memory; called by the data loader, which does not support dataclasses."""
        clean = self.clean.pin_memory()
        noisy = clean if self.noisy is self.clean else self.noisy.pin_memory()
        lengths, keys = self.lengths.pin_memory(), self.keys.pin_memory()
        seams = self.seams and self.seams.apply(Tensor.pin_memory)
        return replace(self, clean=clean, noisy=noisy, lengths=lengths, keys=keys, seams=seams)
