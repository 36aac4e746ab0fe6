"""Mask spans at the ends of chunks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamnest.errors import UserError
from streamnest.masking.base import Masking, MaskingConfig, at, check, mask_embedding
from streamnest.randomness import fold_keys, random_keys, uniform

_COIN_STREAM, _TAIL_STREAM = 6, 7


@dataclass
class ChunkConfig(MaskingConfig):
    """Schema of masking=chunk; see `ChunkMasking`."""

    _target_: str = "streamnest.masking.ChunkMasking"
    stack: int = 4
    mask_prob: float = 0.8
    min_unmasked: float = 0.5
    chunk_frames: int | None = None


class ChunkMasking(Masking):
    """Masks the ends of chunks, so that every masked frame has unmasked frames in its own chunk.

    An encoder with chunked attention encodes the frames of a chunk together, so the masked end of a chunk can be
    predicted from its start and from earlier chunks (similar to Chunk SSL, arXiv 2509.15579). A share of the chunks is
    masked, each over a tail of whole encoder frames. The length of the tail is uniform between one frame and the
    longest that leaves `min_unmasked`.

    Each chunk ends at a live edge, so no other live edge is sampled.

    Args:
        feat_in: feature bands D.
        stack: feature frames per encoder frame.
        mask_prob: share of the chunks that are masked.
        min_unmasked: share of a chunk that is never masked, rounded up to whole encoder frames.
        chunk_frames: feature frames per chunk; None uses the encoder's chunks, as given to `sample`.
        mask_value: constant that replaces masked frames, as in `RandomBlockMasking`.
        freeze: keep the mask embedding fixed, as in `RandomBlockMasking`.

    Raises:
        UserError: for values out of range, and for chunks that have no room for one unmasked and one masked frame.
    """

    def __init__(
        self,
        feat_in: int,
        stack: int,
        mask_prob: float = ChunkConfig.mask_prob,
        min_unmasked: float = ChunkConfig.min_unmasked,
        chunk_frames: int | None = ChunkConfig.chunk_frames,
        mask_value: float | None = ChunkConfig.mask_value,
        freeze: bool = ChunkConfig.freeze,
    ) -> None:
        super().__init__()
        check("mask_prob", mask_prob, 0.0 <= mask_prob <= 1.0, "between 0 and 1")
        check("min_unmasked", min_unmasked, 0.0 < min_unmasked < 1.0, "above 0 and below 1")
        if chunk_frames is not None and chunk_frames % stack:
            low = chunk_frames // stack * stack
            raise UserError(
                f"masking.chunk_frames={chunk_frames} is not a multiple of {stack} feature frames, one encoder frame: "
                f"the nearest are {low} and {low + stack}"
            )
        self.stack, self.mask_prob, self.min_unmasked, self.chunk_frames = stack, mask_prob, min_unmasked, chunk_frames
        mask_embedding(self, feat_in, mask_value, freeze)

    def longest_tail(self, chunk: int | None) -> tuple[int, int]:
        """Returns the feature frames of a chunk, and the largest number of them that is masked.

        Args:
            chunk: feature frames of the encoder's chunks; None is the whole utterance.

        Raises:
            UserError: for chunks of fewer than 2 encoder frames, or without an end.
        """
        size = chunk if self.chunk_frames is None else self.chunk_frames
        if size is None or size < 2 * self.stack:
            actual = "the whole utterance" if size is None else f"{size} feature frames"
            raise UserError(
                f"masking=chunk needs chunks of 2 encoder frames ({2 * self.stack} feature frames) or more, but the "
                f"chunk is {actual}: set masking.chunk_frames, or choose an encoder with look-ahead"
            )
        # The tolerance prevents rounding from losing a frame, as with a share of 0.7 of 10 frames.
        frames = int(size // self.stack * (1 - self.min_unmasked) + 1e-6)
        return size, max(1, frames) * self.stack

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
        if current_frame is not None:
            raise UserError(
                "masking=chunk takes no current_frame, because each chunk ends at a live edge: choose masking=causal"
            )
        keys = random_keys(len(input_lengths), input_lengths.device) if keys is None else keys
        size, longest = self.longest_tail(chunk)
        time = torch.arange(num_frames, device=input_lengths.device)
        chunks = num_frames // size + 1
        masked = uniform(fold_keys(keys, _COIN_STREAM), chunks) < self.mask_prob
        places = uniform(fold_keys(keys, _TAIL_STREAM), chunks) * (longest // self.stack)
        tail = torch.where(masked, (places.long() + 1) * self.stack, 0)
        return (time % size >= size - at(tail, time[None] // size)) & (time < input_lengths[:, None])
