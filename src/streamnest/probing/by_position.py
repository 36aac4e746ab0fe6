"""Frame accuracy by position: seconds since the start, frames after the last visible one, and frame of the chunk.

Pretrained models predict codes in three conditions. `live edge`: the audio after a time t is masked for some frames and
then cut off, so that these frames are predicted from the past only. `masked`: masks of validation. `unmasked`: whole
utterances without masks. Encoders of all tasks get a linear phone probe, if the utterances have phone labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from streamnest.downstream.metrics.error_rates import bootstrap
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.probing.phone_labels import ProbeUtterance
from streamnest.probing.predicted_codes import score_codes
from streamnest.probing.predicted_phones import score_phones
from streamnest.probing.scored_frames import ScoredFrames

# Edges of the bins of seconds since the start.
SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0, float("inf"))


@dataclass(frozen=True)
class PositionFigure:
    """Accuracy of the frames at a position.

    Attributes:
        condition: "live edge", "masked", "unmasked" or "phones".
        axis: "seconds since the start", "frames after the last visible one" or "frame of the chunk".
        position: name of the bin.
        frames: number of predicted frames.
        accuracy: share of correct predictions.
        low: lower end of the 95 % interval of the accuracy over utterances.
        high: upper end.
        nats: mean cross entropy; None without one.
    """

    condition: str
    axis: str
    position: str
    frames: int
    accuracy: float
    low: float
    high: float
    nats: float | None


@torch.no_grad()
def measure_positions(
    model: EncoderTask, utterances: Sequence[ProbeUtterance], masked_ms: float = 480.0, step_ms: float = 240.0
) -> list[PositionFigure]:
    """Measures a model in every condition that it supports, in its current context.

    Args:
        model: model in evaluation mode.
        utterances: utterances; those of the training set are used to fit the phone probe only.
        masked_ms: audio after the live edge that is predicted.
        step_ms: distance between the live edges of an utterance.

    Raises:
        UserError: for unreadable audio, and for utterances that are too short for a live edge; without phone labels,
            also for a model that does not predict masked frames.
    """
    conditions: dict[str, ScoredFrames] = {}
    test = [one for one in utterances if one.split != "train"] or list(utterances)
    if isinstance(model, Pretraining) and "masked" in model.objective.weights:
        frames = [max(1, round(ms / model.encoder.frame_ms)) for ms in (masked_ms, step_ms)]
        conditions |= score_codes(model, test, *frames)
    if any(one.phones for one in utterances):
        conditions["phones"] = score_phones(model, utterances)
    if not conditions:
        raise UserError("nothing can be measured: give a checkpoint of task=pretrain, or utterances with --phones")
    chunk, frame_s = model.encoder.context.chunk, model.encoder.frame_ms / 1000
    return [line for name, scored in conditions.items() for line in figures(name, scored, frame_s, chunk)]


def figures(condition: str, scored: ScoredFrames, frame_s: float, chunk: int | None) -> Iterator[PositionFigure]:
    """Yields the figures of a condition along each axis.

    Args:
        condition: name of the condition.
        scored: predicted frames.
        frame_s: seconds per frame.
        chunk: frames per chunk; None if chunks do not end.
    """
    start = scored.frame * frame_s
    for low, high in pairwise(SECONDS):
        name = f"{low:g}+" if np.isinf(high) else f"{low:g}-{high:g}"
        yield from _figure(condition, "seconds since the start", name, scored, (start >= low) & (start < high))
    for distance in range(1, int(scored.distance.max(initial=0)) + 1):
        name = str(distance)
        yield from _figure(condition, "frames after the last visible one", name, scored, scored.distance == distance)
    if chunk is None or chunk == 1:
        return
    for place in range(chunk):
        chosen = scored.frame % chunk == place
        yield from _figure(condition, "frame of the chunk", str(place + 1), scored, chosen)


def _figure(
    condition: str, axis: str, position: str, scored: ScoredFrames, chosen: NDArray[np.bool_]
) -> Iterator[PositionFigure]:
    """Yields the figure of the chosen frames; nothing if there are none."""
    if not chosen.any():
        return
    utterances = int(scored.utterance.max()) + 1
    correct, count = (
        np.bincount(scored.utterance[chosen], weights, utterances) for weights in (scored.correct[chosen], None)
    )
    low, high = bootstrap(np.stack([correct, count], 1).astype(np.float64))
    nats = float(scored.nats[chosen].mean())
    accuracy = float(correct.sum() / count.sum())
    yield PositionFigure(
        condition, axis, position, int(chosen.sum()), accuracy, low, high, None if np.isnan(nats) else nats
    )
