"""Analysis of the predictions of a pretrained model for masked frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamnest.callbacks.plots import predict
from streamnest.data.batch import Batch
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.plotting import Prediction
from streamnest.pretraining import Pretraining
from streamnest.randomness import hash_id


def analyze_predictions(model: EncoderTask, audio: Tensor, name: str = "audio") -> tuple[dict[str, Any], Prediction]:
    """Masks an utterance as in validation and analyzes the predictions for masked frames.

    Args:
        model: pretrained model with its heads.
        audio: `(N,)` at the model's rate.
        name: name of the utterance, which determines the mask.

    Returns:
        Number of masked frames, their accuracy and cross entropy (nats), entropy of the predicted codes (nats), count
        of each predicted code in descending order, and accuracy by second; and the data of the plot.

    Raises:
        UserError: for a model of another task.
    """
    model = _pretrained(model)
    lengths, keys = torch.tensor([len(audio)]), torch.tensor([hash_id(name)])
    clean = audio[None]
    batch = Batch(clean, clean, lengths, keys, 0, [name], len(audio) / model.frontend.sample_rate)
    prediction = predict(model, batch, "streamed")
    frames = np.flatnonzero(prediction.selected)
    correct = (prediction.codes == prediction.predicted)[frames]
    codes, counts = np.unique(prediction.predicted[frames], return_counts=True)
    share = counts / max(1, counts.sum())
    order = np.argsort(-counts, kind="stable")
    seconds = (frames * prediction.stride).astype(int)
    return {
        "hidden_frames": len(frames),
        "accuracy": float(correct.mean()) if len(frames) else None,
        "nats": float(prediction.nats[frames].mean()) if len(frames) else None,
        "predicted_entropy": float(0.0 - (share * np.log(share)).sum()) if len(frames) else None,
        "codes_predicted": len(codes),
        "histogram": {int(codes[at]): int(counts[at]) for at in order},
        "accuracy_by_second": {int(s): float(correct[seconds == s].mean()) for s in np.unique(seconds)},
    }, prediction


def code_counts(model: EncoderTask, prediction: Prediction) -> dict[str, NDArray[np.float64]]:
    """Counts how often each code `(classes,)` is the target of a masked frame, and how often it is predicted.

    Raises:
        UserError: for a model of another task.
    """
    codes_of, classes = (
        {"target": prediction.codes, "predicted": prediction.predicted},
        _pretrained(model).quantizer.num_classes,
    )
    return {
        k: np.bincount(codes[prediction.selected], minlength=classes).astype(np.float64)
        for k, codes in codes_of.items()
    }


def _pretrained(model: EncoderTask) -> Pretraining:
    if not isinstance(model, Pretraining):
        raise UserError("only a pretrained model has predictions to analyze: use a checkpoint of task=pretrain")
    return model
