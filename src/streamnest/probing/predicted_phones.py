"""Phones that a linear probe on the last layer predicts for each frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.probing.encoded import EncodedUtterance, divide, encode_utterances
from streamnest.probing.layerwise import SILENCE
from streamnest.probing.linear_probe import Examples, fit_softmax
from streamnest.probing.phone_labels import ProbeUtterance, phone_classes
from streamnest.probing.scored_frames import ScoredFrames


def score_phones(model: EncoderTask, utterances: Sequence[ProbeUtterance]) -> ScoredFrames:
    """Fits a linear probe for phones to the last layer, and scores each frame of the test utterances.

    Raises:
        UserError: if training or test set has no utterance with phones.
    """
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
        parts.append(ScoredFrames.of_utterance(number, correct, nats, frame * one.step, frame * 0))
    return ScoredFrames.joined(parts)


def _examples(encoded: Sequence[EncodedUtterance]) -> Examples:
    """Returns the outputs of the last layer for frames with a phone."""
    x = torch.cat([one.layers[-1][one.phones >= 0] for one in encoded])
    return Examples([x], torch.cat([one.phones[one.phones >= 0] for one in encoded]))
