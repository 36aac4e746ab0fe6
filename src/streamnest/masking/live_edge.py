"""Training at the live edge: the last frame that a stream has received so far."""

from __future__ import annotations

import torch
from torch import Tensor

from streamnest.masking.base import Masking, check
from streamnest.randomness import fold_keys, random_keys, uniform

_EDGE_STREAM = 3


class LiveEdgeMasking(Masking):
    """Causal masking that also trains at the live edge.

    In training, a share of the utterances is masked as if the stream had only reached a frame sampled uniformly from
    the last part of the utterance; evaluation masks up to the end.

    Args:
        masking: causal masking that creates the masks.
        live_edge_prob: share of utterances with a sampled live edge.
        live_edge_min_fraction: the edge is sampled from `[min_fraction * length, length]`.
    """

    def __init__(self, masking: Masking, live_edge_prob: float, live_edge_min_fraction: float) -> None:
        super().__init__()
        check("live_edge_prob", live_edge_prob, 0.0 <= live_edge_prob <= 1.0, "between 0 and 1")
        check("live_edge_min_fraction", live_edge_min_fraction, 0.0 < live_edge_min_fraction <= 1.0, "in (0, 1]")
        self.masking = masking
        self.live_edge_prob, self.live_edge_min_fraction = live_edge_prob, live_edge_min_fraction

    @property
    def mask_embedding(self) -> Tensor:  # type: ignore[override]
        """Mask embedding of the inner masking."""
        return self.masking.mask_embedding

    def sample(
        self,
        input_lengths: Tensor,
        num_frames: int,
        current_frame: int | Tensor | None = None,
        *,
        keys: Tensor | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """Samples masks `(B, num_frames)`, in training with a random live edge unless one is given."""
        keys = random_keys(len(input_lengths), input_lengths.device) if keys is None else keys
        if self.training and current_frame is None:
            current_frame = self.sample_edges(input_lengths, keys)
        return self.masking.sample(input_lengths, num_frames, current_frame, keys=keys, chunk=chunk)

    def sample_edges(self, lengths: Tensor, keys: Tensor) -> Tensor:
        """Samples the frame that each stream has reached, `(B,)`: the length for rows without a live edge."""
        chance, place = uniform(fold_keys(keys, _EDGE_STREAM), 2).unbind(1)
        fraction = self.live_edge_min_fraction + (1 - self.live_edge_min_fraction) * place
        return torch.where(chance < self.live_edge_prob, (lengths * fraction).ceil().long(), lengths)
