"""Log-mel features of pieces of recordings, equal to those of the whole recordings."""

from __future__ import annotations

import torch
from torch import Tensor

from streamnest.data.batch import Seams
from streamnest.frontend import LogMel


def margins(frontend: LogMel) -> tuple[int, int]:
    """Returns the samples before and after a piece that its features need; the first number is in whole hops."""
    # Windows begin `past` samples before their hop, and pre-emphasis needs one more.
    return -(-(frontend.past + 1) // frontend.hop) * frontend.hop, frontend.overhang


def piece_features(
    frontend: LogMel, audio: Tensor, lengths: Tensor, seams: Seams, keys: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Computes the features of pieces; arguments and outputs are those of `LogMel.forward`.

    The samples around a piece come with the batch, so that the front end needs no state.

    Args:
        frontend: front end.
        audio: `(B, N)`, whole hops.
        lengths: `(B,)` valid samples.
        seams: samples before and after the rows.
        keys: `(B,)` random keys of the dither.
    """
    left, right = margins(frontend)
    before = seams.before[:, seams.before.shape[1] - left :]
    if frontend.kind == "sherpa":  # a stream starts with its own reflection
        before = torch.where(seams.first[:, None], audio[:, :left].flip(1), before)
    whole = torch.cat([before, audio, seams.after[:, :right]], dim=1)
    features, _ = frontend(whole, left + lengths + seams.after_lengths.clamp_max(right), keys)
    first = left // frontend.hop
    return features[..., first : first + audio.shape[1] // frontend.hop], frontend.num_frames(lengths)
