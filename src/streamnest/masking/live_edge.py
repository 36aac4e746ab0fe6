"""Training at the live edge, where a stream ends for now."""

from __future__ import annotations

import torch
from torch import Tensor

from streamnest.masking.base import Masking, check
from streamnest.randomness import fold_keys, random_keys, uniform

_EDGE_STREAM = 3


class LiveEdgeMasking(Masking):
    """Causal masking that also trains at the live edge.

    While training, a share of the utterances is masked as if the stream had only reached a frame drawn uniformly from
    the last part of the utterance; evaluation masks up to the end.

    Args:
        masking: the causal masking to steer.
        live_edge_prob: share of utterances with a drawn edge.
        live_edge_min_fraction: the edge is drawn from `[min_fraction * length, length]`.
    """

    def __init__(self, masking: Masking, live_edge_prob: float = 0.5, live_edge_min_fraction: float = 0.5) -> None:
        super().__init__()
        check("live_edge_prob", live_edge_prob, 0.0 <= live_edge_prob <= 1.0, "between 0 and 1")
        check("live_edge_min_fraction", live_edge_min_fraction, 0.0 < live_edge_min_fraction <= 1.0, "in (0, 1]")
        self.masking = masking
        self.live_edge_prob, self.live_edge_min_fraction = live_edge_prob, live_edge_min_fraction

    @property
    def mask_embedding(self) -> Tensor:  # type: ignore[override]
        """Of the steered masking."""
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
        """Draws masks `(B, num_frames)`, with a live edge while training unless one is given."""
        keys = random_keys(len(input_lengths), input_lengths.device) if keys is None else keys
        if self.training and current_frame is None:
            current_frame = self.draw_edges(input_lengths, keys)
        return self.masking.sample(input_lengths, num_frames, current_frame, keys=keys, chunk=chunk)

    def draw_edges(self, lengths: Tensor, keys: Tensor) -> Tensor:
        """The frame each stream has reached, `(B,)`; the length where no edge was drawn."""
        chance, place = uniform(fold_keys(keys, _EDGE_STREAM), 2).unbind(1)
        fraction = self.live_edge_min_fraction + (1 - self.live_edge_min_fraction) * place
        return torch.where(chance < self.live_edge_prob, (lengths * fraction).ceil().long(), lengths)
