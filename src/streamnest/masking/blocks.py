"""Blocks of one size: random, or inside a causal window."""

from __future__ import annotations

import torch
from torch import Tensor

from streamnest.errors import UserError
from streamnest.masking.base import Masking, at, check, mask_embedding
from streamnest.randomness import fold_keys, random_bits, random_keys, uniform

# Very short utterances get one block of this many frames, at their start (NEST).
_SHORT_BLOCK = 8
_OFFSET_STREAM, _SLOT_STREAM = 1, 2


class RandomBlockMasking(Masking):
    """Random block masking of NEST (Huang et al. 2024), optionally inside a causal window.

    With `allow_overlap` every frame starts a block with probability `mask_prob`, so a share of
    `1 - (1 - mask_prob) ** block_size` is masked. Without, `ceil(length * mask_prob / block_size)` blocks lie in
    distinct slots of a grid with a random offset; blocks shrink where they do not fit. An utterance so short that
    `block_size >= length * max_mask_ratio` gets one block of 8 frames at its start; the ratio is used for nothing else
    and is no upper bound.

    With `causal`, masked frames lie only in the half-open window `[max(0, end - left_context_size), end)` where
    `end = min(current_frame, length)`: frame `current_frame` itself is not masked. Without `current_frame`, `end` is
    the length; with an unlimited left context as well, causal masks are the ordinary ones. Masking is not what keeps a
    network causal; training at the live edge is what this is for. Units are feature frames of 10 ms.

    Args:
        feat_in: feature bands D.
        mask_prob: see above.
        block_size: frames per block.
        mask_value: constant to fill with; None makes an embedding drawn from N(0, 0.1).
        freeze: whether that embedding is kept as drawn instead of learnt.
        allow_overlap: which of the two modes.
        max_mask_ratio: of the rule for short utterances.
        causal: restrict masks to the window.
        left_context_size: frames of the window; 0 or less is unlimited.

    Raises:
        UserError: for values out of range, and for a `current_frame` without `causal` or below 0.
    """

    def __init__(
        self,
        feat_in: int,
        mask_prob: float = 0.5,
        block_size: int = 48,
        mask_value: float | None = None,
        freeze: bool = True,
        allow_overlap: bool = False,
        max_mask_ratio: float = 0.8,
        causal: bool = False,
        left_context_size: int = -1,
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
        """Draws masks `(B, num_frames)`; see `Masking.forward` for the arguments."""
        keys = random_keys(len(input_lengths), input_lengths.device) if keys is None else keys
        start, end = self._window(input_lengths, current_frame)
        length = (end - start)[:, None]
        # Position inside the window: the window is masked as if it were an utterance by itself.
        place = torch.arange(num_frames, device=start.device) - start[:, None]
        drawn = self._overlapping(place, length, keys) if self.allow_overlap else self._slotted(place, length, keys)
        short = self.block_size >= length.double() * self.max_mask_ratio
        mask = torch.where(short, place < _SHORT_BLOCK, drawn)
        return mask & (place >= 0) & (place < length)

    def _window(self, lengths: Tensor, current_frame: int | Tensor | None) -> tuple[Tensor, Tensor]:
        if current_frame is None:
            end = lengths
        elif not self.causal:
            raise UserError("current_frame is only meant for causal masking: build it with causal=True")
        else:
            end = torch.minimum(torch.as_tensor(current_frame, device=lengths.device, dtype=lengths.dtype), lengths)
            if bool((end < 0).any()):
                raise UserError(f"current_frame={current_frame} is negative: frames are counted from 0")
        start = torch.zeros_like(end)
        if self.causal and self.left_context_size > 0:
            start = (end - self.left_context_size).clamp_min(0)
        return start, end

    def _overlapping(self, place: Tensor, length: Tensor, keys: Tensor) -> Tensor:
        # A binomial number of distinct uniform starts is the same as a coin for each possible start.
        coins = at(uniform(keys, place.shape[1]), place)
        starts = (coins < self.mask_prob) & (place >= 0) & (place < length - self.block_size)
        begun = starts.long().cumsum(1)
        ended = torch.nn.functional.pad(begun, (self.block_size, 0))[:, : place.shape[1]]
        return begun > ended

    def _slotted(self, place: Tensor, length: Tensor, keys: Tensor) -> Tensor:
        # float64, as the rounding up must agree with exact arithmetic on every device.
        blocks = torch.ceil(length.double() * self.mask_prob / self.block_size).long()
        block = torch.where((blocks + 1) * self.block_size > length, length // (blocks + 1), self.block_size)
        block = block.clamp_min(1)
        # Drawn for the block as it is after shrinking, so that no span leaves the utterance.
        offset = (uniform(fold_keys(keys, _OFFSET_STREAM), 1) * block).long()
        usable = length // block - 1
        tickets = random_bits(fold_keys(keys, _SLOT_STREAM), place.shape[1])
        slots = torch.arange(place.shape[1], device=place.device)
        tickets = tickets.masked_fill(slots >= usable, torch.iinfo(torch.int64).max)
        chosen = (tickets.argsort(1).argsort(1) < blocks) & (slots < usable)
        slot = (place - offset).div(block, rounding_mode="floor")
        return at(chosen, slot) & (place >= offset)
