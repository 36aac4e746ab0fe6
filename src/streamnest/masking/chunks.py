"""Blocks at the ends of chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from streamnest.errors import UserError
from streamnest.masking.base import Masking, at, check, mask_embedding
from streamnest.randomness import fold_keys, random_keys, uniform

_COIN_STREAM, _TAIL_STREAM = 6, 7


class ChunkMasking(Masking):
    """Hides the ends of chunks, so that every hidden frame has evidence in its own chunk.

    An encoder with chunked attention encodes the frames of a chunk together: what is hidden at the end of one can be
    told from its beginning, with the earlier chunks in view (in the spirit of Chunk SSL, arXiv 2509.15579). A share of
    the chunks is masked; of each of these a tail of whole encoder frames, its length drawn evenly between one frame and
    the longest that leaves `min_unmasked` of the chunk.

    The end of every chunk is a live edge, so there is no option to draw one.

    Args:
        feat_in: feature bands D.
        stack: feature frames per encoder frame.
        mask_prob: share of the chunks that are masked.
        min_unmasked: share of a chunk that is always heard, rounded up to whole encoder frames.
        chunk_frames: feature frames per chunk; None takes the chunks of the encoder, as given to `sample`.
        mask_value: as in `RandomBlockMasking`.
        freeze: as in `RandomBlockMasking`.

    Raises:
        UserError: for values out of range, and for chunks without room for a heard and a hidden encoder frame.
    """

    def __init__(
        self,
        feat_in: int,
        stack: int,
        mask_prob: float = 0.8,
        min_unmasked: float = 0.5,
        chunk_frames: int | None = None,
        mask_value: float | None = None,
        freeze: bool = True,
    ) -> None:
        super().__init__()
        check("mask_prob", mask_prob, 0.0 <= mask_prob <= 1.0, "between 0 and 1")
        check("min_unmasked", min_unmasked, 0.0 < min_unmasked < 1.0, "above 0 and below 1")
        if chunk_frames is not None and chunk_frames % stack:
            low = chunk_frames // stack * stack
            raise UserError(
                f"masking.chunk_frames={chunk_frames} is no whole number of encoder frames of {stack} feature frames: "
                f"the nearest are {low} and {low + stack}"
            )
        self.stack, self.mask_prob, self.min_unmasked, self.chunk_frames = stack, mask_prob, min_unmasked, chunk_frames
        mask_embedding(self, feat_in, mask_value, freeze)

    def longest_tail(self, chunk: int | None) -> tuple[int, int]:
        """Feature frames of a chunk, and the most of them that are hidden.

        Args:
            chunk: of the encoder.
        """
        size = chunk if self.chunk_frames is None else self.chunk_frames
        if size is None or size < 2 * self.stack:
            found = "the whole utterance" if size is None else f"{size} feature frames"
            raise UserError(
                f"masking=chunk hides the ends of chunks of 2 encoder frames ({2 * self.stack} feature frames) or more "
                f"and these have {found}: set masking.chunk_frames, or choose an encoder with look-ahead"
            )
        # The tolerance keeps a share such as 0.7 of 10 frames from becoming one frame less than it is.
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
        """Draws masks `(B, num_frames)`; see `Masking.sample`."""
        if current_frame is not None:
            raise UserError("current_frame is only meant for causal masking: the ends of chunks are live edges already")
        keys = random_keys(len(input_lengths), input_lengths.device) if keys is None else keys
        size, longest = self.longest_tail(chunk)
        time = torch.arange(num_frames, device=input_lengths.device)
        chunks = num_frames // size + 1
        masked = uniform(fold_keys(keys, _COIN_STREAM), chunks) < self.mask_prob
        drawn = uniform(fold_keys(keys, _TAIL_STREAM), chunks) * (longest // self.stack)
        tail = torch.where(masked, (drawn.long() + 1) * self.stack, 0)
        return (time % size >= size - at(tail, time[None] // size)) & (time < input_lengths[:, None])
