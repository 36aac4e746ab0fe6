"""Codes that a pretrained model predicts for frames of whole utterances: at live edges, with and without masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from streamnest.data.batch import Batch
from streamnest.errors import UserError
from streamnest.objectives import PredictionContext
from streamnest.pretraining import Pretraining
from streamnest.probing.phone_labels import ProbeUtterance
from streamnest.probing.scored_frames import ScoredFrames
from streamnest.randomness import hash_id
from streamnest.streaming.audio_sources import load_audio

# Utterances cut at different times that are encoded together.
_ROWS = 32


@dataclass
class _Prepared:
    """An utterance as in validation.

    Attributes:
        number: number of the utterance.
        features: normalized features before masking `(1, D, T)`.
        codes: target codes `(1, T', codebooks)`.
        context: masks and lengths.
    """

    number: int
    features: Tensor
    codes: Tensor
    context: PredictionContext


def score_codes(
    model: Pretraining, utterances: Sequence[ProbeUtterance], masked: int, step: int
) -> dict[str, ScoredFrames]:
    """Predicts the codes of each utterance in three conditions, without gradients.

    Args:
        model: model in evaluation mode that predicts masked frames.
        utterances: utterances to predict.
        masked: encoder frames that are predicted after a live edge.
        step: encoder frames between the live edges of an utterance.

    Returns:
        Frames of `live edge`, `masked` and `unmasked`.

    Raises:
        UserError: for unreadable audio, and for utterances that are too short for a live edge.
    """
    parts: dict[str, list[ScoredFrames]] = {"live edge": [], "masked": [], "unmasked": []}
    for number, utterance in enumerate(utterances):
        one = _prepare(model, number, utterance)
        parts["live edge"] += _at_live_edges(model, one, masked, step)
        parts["masked"].append(_score_masked(model, one))
        parts["unmasked"].append(_score_unmasked(model, one))
    if not parts["live edge"]:
        ms = (masked + step) * model.encoder.frame_ms
        raise UserError(f"no utterance has {ms:g} ms, the sum of --masked-ms and --step-ms: give smaller ones")
    return {name: ScoredFrames.joined(some) for name, some in parts.items()}


def _prepare(model: Pretraining, number: int, utterance: ProbeUtterance) -> _Prepared:
    audio = load_audio(utterance.path, model.sample_rate)
    lengths, keys = torch.tensor([len(audio)]), torch.tensor([hash_id(utterance.id)])
    seconds = len(audio) / model.sample_rate
    batch = Batch(audio[None], audio[None], lengths, keys, 0, [utterance.id], seconds)
    return _Prepared(number, *model.prepare_batch(batch, 0))


def _at_live_edges(model: Pretraining, one: _Prepared, masked: int, step: int) -> Iterator[ScoredFrames]:
    """Predicts the frames after each live edge; the audio after them is cut off."""
    stack, frames = model.quantizer.stack, one.codes.shape[1]
    count = max(0, (frames - masked) // step)
    # The edges lie at every place of a chunk in turn.
    edges = torch.arange(1, count + 1) * step + torch.arange(count) % (model.encoder.context.chunk or 1)
    edges = edges[edges + masked <= frames]
    for some in edges.split(_ROWS) if len(edges) else ():
        lengths = (some + masked) * stack
        longest = int(lengths.max())
        mask = torch.arange(longest) >= (some * stack)[:, None]
        features = one.features[..., :longest].expand(len(some), -1, -1)
        encoded, _ = model.encode(features, PredictionContext(mask, lengths, stack))
        index = some[:, None] + torch.arange(masked)
        vectors = encoded.gather(1, index[..., None].expand(-1, -1, encoded.shape[-1]))
        correct, nats = _scores(model, vectors.flatten(0, 1), one.codes[0][index.flatten()])
        distance = (torch.arange(masked) + 1).expand_as(index)
        yield ScoredFrames.of_utterance(one.number, correct, nats, index, distance)


def _score_masked(model: Pretraining, one: _Prepared) -> ScoredFrames:
    """Predicts the masked frames of validation."""
    selected = model.objective.selected(one.context)["masked"][0]
    return _score(model, one, one.context, selected, _since_visible(selected))


def _score_unmasked(model: Pretraining, one: _Prepared) -> ScoredFrames:
    """Predicts all frames of the whole utterance without masks."""
    context = PredictionContext(torch.zeros_like(one.context.mask), one.context.lengths, one.context.stack)
    time = torch.arange(one.codes.shape[1])
    return _score(model, one, context, time < int(context.num_targets[0]), torch.zeros_like(time))


def _score(
    model: Pretraining, one: _Prepared, context: PredictionContext, selected: Tensor, distance: Tensor
) -> ScoredFrames:
    """Predicts the selected frames, boolean `(T',)`, with masks of `context`; `distance` is that of each frame."""
    encoded, _ = model.encode(one.features, context)
    frames = min(encoded.shape[1], one.codes.shape[1])
    index = selected[:frames].nonzero()[:, 0]
    correct, nats = _scores(model, encoded[0, index], one.codes[0, index])
    return ScoredFrames.of_utterance(one.number, correct, nats, index, distance[index])


def _since_visible(selected: Tensor) -> Tensor:
    """Counts the frames since the last one that is not selected, `(T',)`."""
    time = torch.arange(len(selected))
    return time - torch.where(selected, -1, time).cummax(0).values


def _scores(model: Pretraining, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the accuracy and the cross entropy of `(N, d)` vectors, mean over codebooks, `(N,)` each."""
    logits = model.objective.logits(vectors).float()
    nats = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view(codes.shape)
    return (logits.argmax(-1) == codes).float().mean(-1), nats.mean(-1)
