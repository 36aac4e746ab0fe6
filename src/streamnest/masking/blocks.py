"""Mask spans of one size: random, or inside a causal window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamnest.errors import UserError
from streamnest.masking.base import Masking, MaskingConfig, at, check, mask_embedding
from streamnest.randomness import fold_keys, random_bits, random_keys, uniform

# Very short utterances get one mask span of this many frames, at their start (NEST).
_SHORT_BLOCK = 8
_OFFSET_STREAM, _SLOT_STREAM = 1, 2


@dataclass
class BlocksConfig(MaskingConfig):
    """Schema of masking=random, causal and none: `RandomBlockMasking` and `LiveEdgeMasking`."""

    kind: str = "random"
    mask_prob: float = 0.5
    block_size: int = 48
    allow_overlap: bool = False
    max_mask_ratio: float = 0.8
    left_context_size: int = -1
    live_edge_prob: float = 0.0
    live_edge_min_fraction: float = 0.5


class RandomBlockMasking(Masking):
    """Random block masking of NEST (Huang et al. 2024), optionally inside a causal window.

    With `allow_overlap`, each frame starts a mask span with probability `mask_prob`, so a share of
    `1 - (1 - mask_prob) ** block_size` is masked. Otherwise `ceil(length * mask_prob / block_size)` spans lie in
    distinct slots of a grid with a random offset, and shrink if they do not fit. An utterance with
    `block_size >= length * max_mask_ratio` gets one span of 8 frames at its start; the ratio has no other use and does
    not bound the masked share.

    With `causal`, masked frames lie in the half-open window `[max(0, end - left_context_size), end)`, where
    `end = min(current_frame, length)`, so frame `current_frame` itself is not masked. Without `current_frame`, `end` is
    the length; if the left context is unlimited too, causal masks equal ordinary ones. The purpose is to train at the
    live edge; a network is causal or not regardless of its masks. Units are feature frames of 10 ms.

    Args:
        feat_in: feature bands D.
        mask_prob: probability that a frame starts a span, or share of masked frames without overlap.
        block_size: frames per mask span.
        mask_value: constant that replaces masked frames; None uses an embedding sampled from N(0, 0.1).
        freeze: keep that embedding as sampled instead of training it.
        allow_overlap: let spans overlap.
        max_mask_ratio: threshold of the rule for short utterances.
        causal: restrict masks to the window.
        left_context_size: frames of the window; 0 or less is unlimited.

    Raises:
        UserError: for values out of range, and if `current_frame` is negative or given without `causal`.
    """

    def __init__(
        self,
        feat_in: int,
        mask_prob: float = BlocksConfig.mask_prob,
        block_size: int = BlocksConfig.block_size,
        mask_value: float | None = BlocksConfig.mask_value,
        freeze: bool = BlocksConfig.freeze,
        allow_overlap: bool = BlocksConfig.allow_overlap,
        max_mask_ratio: float = BlocksConfig.max_mask_ratio,
        causal: bool = False,
        left_context_size: int = BlocksConfig.left_context_size,
    ) -> None:
        super().__init__()
        check("feat_in", feat_in, feat_in >= 1, "at least 1")
        check("mask_prob", mask_prob, 0.0 <= mask_prob <= 1.0, "between 0 and 1")
        check("block_size", block_size, block_size >= 1, "at least 1 frame")
        check("max_mask_ratio", max_mask_ratio, 0.0 < max_mask_ratio <= 1.0, "above 0, at most 1")
        self.mask_prob, self.block_size, self.allow_overlap = mask_prob, block_size, allow_overlap
        self.max_mask_ratio, self.causal, self.left_context_size = max_mask_ratio, causal, left_context_size
        mask_embedding(self, feat_in, mask_value, freeze)

    def sample(
        self,
        input_lengths: Tensor,
        num_frames: int,
        current_frame: int | Tensor | None = None,
        *,
        keys: Tensor | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """Samples masks `(B, num_frames)`; see `Masking.sample`."""
        keys = random_keys(len(input_lengths), input_lengths.device) if keys is None else keys
        start, end = self._window(input_lengths, current_frame)
        length = (end - start)[:, None]
        # Position inside the window, which is masked like an utterance of its own.
        position = torch.arange(num_frames, device=start.device) - start[:, None]
        mask = (
            self._overlapping(position, length, keys) if self.allow_overlap else self._slotted(position, length, keys)
        )
        short = self.block_size >= length.double() * self.max_mask_ratio
        mask = torch.where(short, position < _SHORT_BLOCK, mask)
        return mask & (position >= 0) & (position < length)

    def _window(self, lengths: Tensor, current_frame: int | Tensor | None) -> tuple[Tensor, Tensor]:
        if current_frame is None:
            end = lengths
        elif not self.causal:
            raise UserError("current_frame needs a causal masking: choose masking=causal, or causal=True in Python")
        else:
            end = torch.minimum(torch.as_tensor(current_frame, device=lengths.device, dtype=lengths.dtype), lengths)
            if bool((end < 0).any()):
                raise UserError(f"current_frame={current_frame} is negative: give a frame number from 0")
        start = torch.zeros_like(end)
        if self.causal and self.left_context_size > 0:
            start = (end - self.left_context_size).clamp_min(0)
        return start, end

    def _overlapping(self, position: Tensor, length: Tensor, keys: Tensor) -> Tensor:
        # An independent decision for each possible start is equivalent to a binomial number of distinct uniform starts.
        numbers = at(uniform(keys, position.shape[1]), position)
        starts = (numbers < self.mask_prob) & (position >= 0) & (position < length - self.block_size)
        begun = starts.long().cumsum(1)
        ended = torch.nn.functional.pad(begun, (self.block_size, 0))[:, : position.shape[1]]
        return begun > ended

    def _slotted(self, position: Tensor, length: Tensor, keys: Tensor) -> Tensor:
        # float64, so that rounding up agrees with exact arithmetic on every device.
        spans = torch.ceil(length.double() * self.mask_prob / self.block_size).long()
        size = torch.where((spans + 1) * self.block_size > length, length // (spans + 1), self.block_size)
        size = size.clamp_min(1)
        # Sampled for the size after shrinking, so that no span leaves the utterance.
        offset = (uniform(fold_keys(keys, _OFFSET_STREAM), 1) * size).long()
        usable = length // size - 1
        priorities = random_bits(fold_keys(keys, _SLOT_STREAM), position.shape[1])
        slots = torch.arange(position.shape[1], device=position.device)
        priorities = priorities.masked_fill(slots >= usable, torch.iinfo(torch.int64).max)
        chosen = (priorities.argsort(1).argsort(1) < spans) & (slots < usable)
        slot = (position - offset).div(size, rounding_mode="floor")
        return at(chosen, slot) & (position >= offset)
