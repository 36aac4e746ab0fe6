"""Predictions of the frames of some utterances, each correct or not, with their positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class ScoredFrames:
    """Predicted frames of some utterances, with their positions; all fields are `(N,)`.

    Attributes:
        utterance: number of the utterance.
        correct: 1 if the prediction is correct; the mean over codebooks.
        nats: cross entropy; NaN without one.
        frame: number of the frame in its utterance.
        distance: encoder frames since the last visible one; 0 if the frame itself is visible.
    """

    utterance: NDArray[np.int64]
    correct: NDArray[np.float64]
    nats: NDArray[np.float64]
    frame: NDArray[np.int64]
    distance: NDArray[np.int64]

    @classmethod
    def of_utterance(cls, number: int, correct: Tensor, nats: Tensor, frame: Tensor, distance: Tensor) -> ScoredFrames:
        """Returns frames of one utterance; tensors of any shape are flattened."""
        scores = [x.flatten().double().numpy() for x in (correct, nats)]
        positions = [_whole(x) for x in (frame, distance)]
        return cls(np.full(len(scores[0]), number), *scores, *positions)

    @classmethod
    def joined(cls, parts: Sequence[ScoredFrames]) -> ScoredFrames:
        """Returns the frames of all parts."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def _whole(x: Tensor) -> NDArray[Any]:
    return x.flatten().numpy().astype(np.int64)
