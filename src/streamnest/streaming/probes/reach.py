"""Declared receptive field of each stage: which frames may depend on which samples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from streamnest.encoder_task import EncoderTask


class Stage(NamedTuple):
    """A recorded stage of the model.

    Attributes:
        label: name in messages.
        kind: "features", "subsampling", "attention", "convolution", "layer", "encoder" or "by target".
        layer: number of its layer; 0 outside of the layers.
    """

    label: str
    kind: str
    layer: int = 0


class Reach:
    """Computes the frames of each stage that may depend on samples before or after a point.

    Args:
        model: model with a limited right context.
    """

    def __init__(self, model: EncoderTask) -> None:
        self.encoder, self.frontend = model.encoder, model.frontend
        self.context, self.subsampling, self.hop = model.encoder.context, model.encoder.subsampling, model.frontend.hop
        self.span = self.subsampling.factor * self.hop
        self.chunk = self.context.chunk or 1
        taps = self.frontend.window.nonzero().flatten()
        # Pre-emphasis needs one more sample.
        self._before = self.frontend.past - int(taps.min()) + int(self.frontend.preemphasis != 0)

    def valid(self, stage: Stage, lengths: Tensor) -> Tensor:
        """Number of frames of a stage `(B,)` for utterances of `lengths` samples."""
        features = lengths // self.hop
        if stage.kind == "features":
            return features
        frames = self.subsampling.num_frames(features + self.context.delay * self.subsampling.factor)
        return self._outputs(stage, frames)

    def known(self, stage: Stage, boundary: Tensor) -> Tensor:
        """Number of first frames of a stage that no sample from `boundary` `(B,)` on may change."""
        features = (boundary - self.frontend.lookahead_samples) // self.hop
        if stage.kind == "features":
            return features.clamp_min(0)
        frames = (features - self.subsampling.lookahead) // self.subsampling.factor
        if stage.kind != "subsampling":
            layers = len(self.encoder.layers) if stage.kind in ("encoder", "by target") else stage.layer + 1
            frames = (frames - self.context.ahead) // self.chunk * self.chunk - self.context.lag * layers
        return self._outputs(stage, frames).clamp_min(0)

    def boundary(self, frames: int) -> int:
        """First sample that the first `frames` outputs, a number of whole chunks, do not depend on."""
        known = frames + self.context.delay + self.context.ahead + self.context.lag * len(self.encoder.layers)
        features = known * self.subsampling.factor + self.subsampling.lookahead
        return max(0, features * self.hop + self.frontend.lookahead_samples)

    def later(self, stage: Stage, start: int) -> int | None:
        """First frame of a stage that no sample before `start` may change; None if every frame may depend on it."""
        if self.encoder.normalize == "online" and stage.label != "front end":
            return None
        features = -(-(start + self._before) // self.hop)
        if stage.kind == "features":
            return features
        reach = (self.subsampling.factor - 1) * self.subsampling.padding.past
        frames = -(-(features + reach) // self.subsampling.factor)
        if stage.kind == "subsampling":
            return frames
        layers = len(self.encoder.layers) if stage.kind in ("encoder", "by target") else stage.layer + 1
        for layer in range(layers):
            attended = self.first_attending(frames)
            if attended is None:
                return None
            last = layer == layers - 1 and stage.kind == "attention"
            frames = attended + (0 if last else self.encoder.layers[layer].convolution.past)
        return int(self._outputs(stage, torch.tensor(frames)))

    def first_attending(self, frame: int) -> int | None:
        """First query of one attention layer that sees no key before `frame`; None if all see the start."""
        left = self.context.left
        if left is None:
            return None
        return -(-(frame + left) // self.chunk) * self.chunk

    def _outputs(self, stage: Stage, frames: Tensor) -> Tensor:
        if stage.kind in ("encoder", "by target"):
            frames = frames - self.context.delay
        return frames - self.encoder.target_shift if stage.kind == "by target" else frames
