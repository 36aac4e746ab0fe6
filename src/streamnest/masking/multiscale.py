"""Blocks of several sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from streamnest.errors import UserError
from streamnest.masking.base import Masking, check, mask_embedding
from streamnest.masking.blocks import RandomBlockMasking
from streamnest.randomness import fold_keys, random_bits, random_keys

_CHOICE_STREAM, _SCALE_STREAM = 4, 5


class MultiscaleMasking(Masking):
    """Random blocks whose sizes come from a set; each size masks the same share of frames.

    Blocks of one size are those of `RandomBlockMasking` with overlap, started so often that `mask_share` of a long
    utterance is masked. With `mix="utterance"` a row gets blocks of one size, drawn evenly. With `mix="block"` it gets
    blocks of all sizes; what each size masks is then reduced, so that together they mask that share.

    Args:
        feat_in: feature bands D.
        block_sizes: feature frames of 10 ms.
        mask_share: share of the frames of a long utterance that is masked.
        mix: "utterance" or "block".
        mask_value: as in `RandomBlockMasking`, as are `freeze`, `max_mask_ratio`, `causal` and `left_context_size`.
        freeze: see there.
        max_mask_ratio: see there.
        causal: see there.
        left_context_size: see there.

    Raises:
        UserError: for values out of range.
    """

    def __init__(
        self,
        feat_in: int,
        block_sizes: Sequence[int] = (8, 16, 32, 64),
        mask_share: float = 0.4,
        mix: str = "utterance",
        mask_value: float | None = None,
        freeze: bool = True,
        max_mask_ratio: float = 0.8,
        causal: bool = False,
        left_context_size: int = -1,
    ) -> None:
        super().__init__()
        check("mask_share", mask_share, 0.0 <= mask_share < 1.0, "at least 0 and below 1")
        if not block_sizes or min(block_sizes) < 1:
            raise UserError(f"masking.block_sizes={list(block_sizes)} must name sizes of at least 1 frame")
        if mix not in ("utterance", "block"):
            raise UserError(f"masking.mix={mix!r} is unknown: choose utterance or block")
        self.block_sizes, self.mask_share, self.mix = tuple(block_sizes), mask_share, mix
        self.causal, self.left_context_size = causal, left_context_size
        mask_embedding(self, feat_in, mask_value, freeze)
        # A frame stays heard when no block of any size covers it: (1 - start) ** size, over all sizes that are mixed.
        heard = (1 - mask_share) ** (1 / len(block_sizes) if mix == "block" else 1)
        # Not registered: they draw, the embedding is the one above.
        self._scales = tuple(
            RandomBlockMasking(
                feat_in,
                mask_prob=1 - heard ** (1 / size),
                block_size=size,
                mask_value=0.0,
                allow_overlap=True,
                max_mask_ratio=max_mask_ratio,
                causal=causal,
                left_context_size=left_context_size,
            )
            for size in self.block_sizes
        )

    def sample(
        self,
        input_lengths: Tensor,
        num_frames: int,
        current_frame: int | Tensor | None = None,
        *,
        keys: Tensor | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """Draws masks `(B, num_frames)`; see `Masking.sample`."""
        keys = random_keys(len(input_lengths), input_lengths.device) if keys is None else keys
        drawn = torch.stack(
            [
                scale.sample(input_lengths, num_frames, current_frame, keys=fold_keys(keys, _SCALE_STREAM, number))
                for number, scale in enumerate(self._scales)
            ]
        )
        if self.mix == "block":
            return drawn.any(0)
        chosen = random_bits(fold_keys(keys, _CHOICE_STREAM), 1)[:, 0] % len(self._scales)
        return drawn[chosen, torch.arange(len(chosen), device=chosen.device)]
