"""Mask spans of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from streamnest.errors import UserError
from streamnest.masking.base import Masking, MaskingConfig, check, mask_embedding
from streamnest.masking.blocks import RandomBlockMasking
from streamnest.randomness import fold_keys, random_bits, random_keys

_CHOICE_STREAM, _SCALE_STREAM = 4, 5


@dataclass
class MultiscaleConfig(MaskingConfig):
    """Schema of masking=multiscale: `MultiscaleMasking` and `LiveEdgeMasking`."""

    _target_: str = "streamnest.masking.build_multiscale"
    block_sizes: list[int] = field(default_factory=lambda: [8, 16, 32, 64])
    mask_share: float = 0.4
    mix: str = "utterance"
    max_mask_ratio: float = 0.8
    left_context_size: int = -1
    live_edge_prob: float = 0.0
    live_edge_min_fraction: float = 0.5


class MultiscaleMasking(Masking):
    """Random mask spans whose sizes come from a set; each size masks the same share of frames.

    Spans of one size are those of `RandomBlockMasking` with overlap, with the start probability that masks `mask_share`
    of a long utterance. With `mix="utterance"` each row gets spans of one size, chosen uniformly. With `mix="block"` it
    gets spans of all sizes, with start probabilities reduced so that all sizes together mask that share.

    Args:
        feat_in: feature bands D.
        block_sizes: feature frames of 10 ms per span.
        mask_share: share of the frames of a long utterance that is masked.
        mix: "utterance" or "block".
        mask_value: constant that replaces masked frames; this and the following are as in `RandomBlockMasking`.
        freeze: keep the mask embedding fixed.
        max_mask_ratio: threshold of the rule for short utterances.
        causal: restrict masks to a window.
        left_context_size: frames of the window; 0 or less is unlimited.

    Raises:
        UserError: for values out of range.
    """

    def __init__(
        self,
        feat_in: int,
        block_sizes: Sequence[int],
        mask_share: float = MultiscaleConfig.mask_share,
        mix: str = MultiscaleConfig.mix,
        mask_value: float | None = MultiscaleConfig.mask_value,
        freeze: bool = MultiscaleConfig.freeze,
        max_mask_ratio: float = MultiscaleConfig.max_mask_ratio,
        causal: bool = False,
        left_context_size: int = MultiscaleConfig.left_context_size,
    ) -> None:
        super().__init__()
        check("mask_share", mask_share, 0.0 <= mask_share < 1.0, "at least 0 and below 1")
        if not block_sizes or min(block_sizes) < 1:
            raise UserError(
                f"masking.block_sizes={list(block_sizes)} must hold at least one size, each of at least 1 frame"
            )
        if mix not in ("utterance", "block"):
            raise UserError(f"masking.mix={mix!r} is unknown: choose utterance or block")
        self.block_sizes, self.mask_share, self.mix = tuple(block_sizes), mask_share, mix
        self.causal, self.left_context_size = causal, left_context_size
        mask_embedding(self, feat_in, mask_value, freeze)
        # A frame is unmasked if no span covers it: (1 - start) ** size, multiplied over the sizes that are mixed.
        unmasked = (1 - mask_share) ** (1 / len(block_sizes) if mix == "block" else 1)
        # A tuple, so not registered as submodules: only their masks are used, and the embedding above.
        self._scales = tuple(
            RandomBlockMasking(
                feat_in,
                mask_prob=1 - unmasked ** (1 / size),
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
        """Samples masks `(B, num_frames)`; see `Masking.sample`."""
        keys = random_keys(len(input_lengths), input_lengths.device) if keys is None else keys
        masks = torch.stack(
            [
                scale.sample(input_lengths, num_frames, current_frame, keys=fold_keys(keys, _SCALE_STREAM, number))
                for number, scale in enumerate(self._scales)
            ]
        )
        if self.mix == "block":
            return masks.any(0)
        chosen = random_bits(fold_keys(keys, _CHOICE_STREAM), 1)[:, 0] % len(self._scales)
        return masks[chosen, torch.arange(len(chosen), device=chosen.device)]
