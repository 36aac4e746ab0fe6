"""What a pretrained model predicts where audio is hidden from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamnest.callbacks.pictures import predict
from streamnest.data.batch import Batch
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.plotting import Prediction
from streamnest.pretraining import Pretraining
from streamnest.randomness import hash_id


def analyze_predictions(model: EncoderTask, audio: Tensor, name: str = "audio") -> tuple[dict[str, Any], Prediction]:
    """What the model predicts where stretches of an utterance are hidden, as validation hides them.

    Args:
        model: with its heads.
        audio: `(N,)` at the model's rate.
        name: the mask is a function of it.

    Returns:
        Accuracy and nats on hidden frames, entropy of the predicted codes (nats), how often each was predicted, the
        most used first, and accuracy by second; and what a picture of it needs.

    Raises:
        UserError: for a model of another task.
    """
    model = _pretrained(model)
    lengths, keys = torch.tensor([len(audio)]), torch.tensor([hash_id(name)])
    clean = audio[None]
    batch = Batch(clean, clean, lengths, keys, 0, [name], len(audio) / model.frontend.sample_rate)
    shown = predict(model, batch, "streamed")
    where = np.flatnonzero(shown.selected)
    right = (shown.codes == shown.predicted)[where]
    codes, counts = np.unique(shown.predicted[where], return_counts=True)
    share = counts / max(1, counts.sum())
    order = np.argsort(-counts, kind="stable")
    seconds = (where * shown.stride).astype(int)
    return {
        "hidden_frames": len(where),
        "accuracy": float(right.mean()) if len(where) else None,
        "nats": float(shown.nats[where].mean()) if len(where) else None,
        "predicted_entropy": float(-(share * np.log(share)).sum()) if len(where) else None,
        "codes_predicted": len(codes),
        "histogram": {int(codes[at]): int(counts[at]) for at in order},
        "accuracy_by_second": {int(s): float(right[seconds == s].mean()) for s in np.unique(seconds)},
    }, shown


def code_counts(model: EncoderTask, shown: Prediction) -> dict[str, NDArray[np.float64]]:
    """How often each code `(classes,)` is the target of a hidden frame, and how often it is predicted there.

    Raises:
        UserError: for a model of another task.
    """
    found, classes = {"target": shown.codes, "predicted": shown.predicted}, _pretrained(model).quantizer.num_classes
    return {k: np.bincount(codes[shown.selected], minlength=classes).astype(np.float64) for k, codes in found.items()}


def _pretrained(model: EncoderTask) -> Pretraining:
    if not isinstance(model, Pretraining):
        raise UserError("only a pretrained model has predictions to analyse: give a checkpoint of task=pretrain")
    return model
