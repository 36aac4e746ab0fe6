"""Frame accuracy by position: seconds since the start, frames after the last visible one, and frame of the chunk.

Pretrained models predict codes in three conditions. `live edge`: the audio after a time t is masked for some frames and
then cut off, so that these frames are predicted from the past only. `masked`: masks of validation. `unmasked`: whole
utterances without masks. Encoders of all tasks get a linear phone probe, if the utterances have phone labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from streamnest.data.batch import Batch
from streamnest.downstream.metrics.error_rates import bootstrap
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.objectives import PredictionContext
from streamnest.pretraining import Pretraining
from streamnest.probing.encoded import EncodedUtterance, divide, encode_utterances
from streamnest.probing.layerwise import SILENCE
from streamnest.probing.linear_probe import Examples, fit_softmax
from streamnest.probing.phone_labels import ProbeUtterance, phone_classes
from streamnest.randomness import hash_id
from streamnest.streaming.audio_sources import load_audio

# Edges of the bins of seconds since the start.
SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0, float("inf"))
# Utterances cut at different times that are encoded together.
_ROWS = 32


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
    def joined(cls, parts: Sequence[ScoredFrames]) -> ScoredFrames:
        """Returns the frames of all parts."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


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
        conditions |= _code_conditions(model, test, *frames)
    if any(one.phones for one in utterances):
        conditions["phones"] = _phones(model, utterances)
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
    for place in range(chunk or 0) if (chunk or 1) > 1 else ():
        chosen = scored.frame % (chunk or 1) == place
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


def _code_conditions(
    model: Pretraining, utterances: Sequence[ProbeUtterance], masked: int, step: int
) -> dict[str, ScoredFrames]:
    parts: dict[str, list[ScoredFrames]] = {"live edge": [], "masked": [], "unmasked": []}
    for number, utterance in enumerate(utterances):
        audio = load_audio(utterance.path, model.sample_rate)
        lengths, keys = torch.tensor([len(audio)]), torch.tensor([hash_id(utterance.id)])
        seconds = len(audio) / model.sample_rate
        batch = Batch(audio[None], audio[None], lengths, keys, 0, [utterance.id], seconds)
        features, codes, context = model.prepare_batch(batch, 0)
        parts["live edge"] += _at_live_edges(model, number, features, codes, masked, step)
        selected = model.objective.selected(context)["masked"][0]
        parts["masked"].append(_scored(model, number, features, codes, context, selected))
        plain = PredictionContext(torch.zeros_like(context.mask), context.lengths, context.stack)
        everything = torch.arange(codes.shape[1]) < int(plain.num_targets[0])
        parts["unmasked"].append(_scored(model, number, features, codes, plain, everything, visible=True))
    if not parts["live edge"]:
        ms = (masked + step) * model.encoder.frame_ms
        raise UserError(f"no utterance has {ms:g} ms, the sum of --masked-ms and --step-ms: give smaller ones")
    return {name: ScoredFrames.joined(some) for name, some in parts.items()}


def _at_live_edges(
    model: Pretraining, number: int, features: Tensor, codes: Tensor, masked: int, step: int
) -> list[ScoredFrames]:
    """Predicts the frames after each live edge; the audio after them is cut off."""
    stack, frames = model.quantizer.stack, codes.shape[1]
    count = max(0, (frames - masked) // step)
    # The edges lie at every place of a chunk in turn.
    edges = torch.arange(1, count + 1) * step + torch.arange(count) % (model.encoder.context.chunk or 1)
    edges, scored = edges[edges + masked <= frames], []
    for some in edges.split(_ROWS):
        if not len(some):
            continue
        lengths = (some + masked) * stack
        count = int(lengths.max())
        mask = torch.arange(count) >= (some * stack)[:, None]
        context = PredictionContext(mask, lengths, stack)
        encoded, _ = model.encode(features[..., :count].expand(len(some), -1, -1), context)
        index = some[:, None] + torch.arange(masked)
        vectors = encoded.gather(1, index[..., None].expand(-1, -1, encoded.shape[-1]))
        correct, nats = _scores(model, vectors.flatten(0, 1), codes[0][index.flatten()])
        distance = (torch.arange(masked) + 1).expand_as(index)
        scored.append(_frames(number, correct, nats, index, distance))
    return scored


def _scored(
    model: Pretraining,
    number: int,
    features: Tensor,
    codes: Tensor,
    context: PredictionContext,
    selected: Tensor,
    visible: bool = False,
) -> ScoredFrames:
    """Predicts the selected frames of an utterance, boolean `(T',)`."""
    encoded, _ = model.encode(features, context)
    frames = min(encoded.shape[1], codes.shape[1])
    index = selected[:frames].nonzero()[:, 0]
    correct, nats = _scores(model, encoded[0, index], codes[0, index])
    return _frames(number, correct, nats, index, index * 0 if visible else _since_visible(selected)[index])


def _since_visible(selected: Tensor) -> Tensor:
    """Counts the frames since the last one that is not selected, `(T',)`."""
    time = torch.arange(len(selected))
    return time - torch.where(selected, -1, time).cummax(0).values


def _scores(model: Pretraining, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the accuracy and the cross entropy of `(N, d)` vectors, mean over codebooks, `(N,)` each."""
    logits = model.objective.logits(vectors).float()
    nats = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view(codes.shape)
    return (logits.argmax(-1) == codes).float().mean(-1), nats.mean(-1)


def _frames(number: int, correct: Tensor, nats: Tensor, frame: Tensor, distance: Tensor) -> ScoredFrames:
    whole: Callable[[Tensor], NDArray[Any]] = lambda x: x.flatten().numpy().astype(np.int64)
    correct, nats = correct.flatten().double(), nats.flatten().double()
    number_of = np.full(len(correct), number)
    return ScoredFrames(number_of, correct.numpy(), nats.numpy(), whole(frame), whole(distance))


def _phones(model: EncoderTask, utterances: Sequence[ProbeUtterance]) -> ScoredFrames:
    """Fits a linear probe for phones to the last layer, and scores each frame of the test utterances."""
    aligned = [one for one in utterances if one.phones]
    classes = phone_classes(aligned, SILENCE)
    train, test = divide(encode_utterances(model, aligned, classes))
    if not train or not test:
        raise UserError("a phone probe needs training and test utterances with phones: add some, or leave out --phones")
    fitted = _examples(train)
    with torch.enable_grad():
        _, weight, bias = fit_softmax(fitted.standardized(fitted).x[0][:, None], fitted.y, len(classes), l2=1e-3)
    parts = []
    for number, one in enumerate(test):
        frame = (one.phones >= 0).nonzero()[:, 0]
        scores = _examples([one]).standardized(fitted).x[0] @ weight + bias
        nats = F.cross_entropy(scores, one.phones[frame], reduction="none")
        correct = (scores.argmax(-1) == one.phones[frame]).float()
        parts.append(_frames(number, correct, nats, frame * one.step, frame * 0))
    return ScoredFrames.joined(parts)


def _examples(encoded: Sequence[EncodedUtterance]) -> Examples:
    """Returns the outputs of the last layer for frames with a phone."""
    x = torch.cat([one.layers[-1][one.phones >= 0] for one in encoded])
    return Examples([x], torch.cat([one.phones[one.phones >= 0] for one in encoded]))
