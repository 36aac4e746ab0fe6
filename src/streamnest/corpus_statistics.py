"""Statistics of the training set: mean and deviation of each mel band, and frequency of each code."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from streamnest.data.batch import Batch
from streamnest.encoder_task import EncoderTask
from streamnest.pretraining import Pretraining
from streamnest.quantizer import count_codes

# Most target frames used to fit codes, evenly spaced over the audio.
_MAX_FITTED = 100_000


@torch.no_grad()
def fit_statistics(model: EncoderTask, batches: Iterable[Batch], hours: float) -> float:
    """Fits the normalizers and counts the codes of clean training audio; checkpoints contain both.

    Makes two passes over the same batches, because codes depend on the statistics if targets are normalized globally.
    Does nothing if all statistics came with an encoder (`encoder_from`).

    Args:
        model: task whose normalizers are fitted, and in pretraining also `train_counts`.
        batches: batches of clean audio, the same on every rank.
        hours: amount of audio after which to stop.

    Returns:
        Hours of audio used.
    """
    pretraining = isinstance(model, Pretraining)
    norms = [norm for norm in model.normalizers if pretraining or not norm.fitted]
    if not norms:
        return 0.0
    training = model.frontend.training
    model.frontend.eval()
    kept, seconds = [], 0.0
    moments = _Moments(model.frontend.num_mels)
    for batch in batches:
        features, frames = model.frontend(batch.clean, batch.lengths)
        moments.add(features, frames)
        kept += [(features.half(), frames)] if pretraining else []
        seconds += batch.seconds
        if seconds >= 3600 * hours:
            break
    mean, std = moments.result()
    for norm in norms:
        norm.set_statistics(mean, std)
    if isinstance(model, Pretraining):
        _fit_codes(model, kept)
        _count_codes(model, kept)
    model.frontend.train(training)
    return seconds / 3600


def _fit_codes(model: Pretraining, kept: list[tuple[Tensor, Tensor]]) -> None:
    quantizer = model.quantizer
    if not quantizer.to_be_fitted:
        return
    targets = []
    for features, frames in kept:
        stacked = quantizer.stacked(model.target_norm(features.float(), frames))
        targets.append(stacked[torch.arange(stacked.shape[1]) < (frames // quantizer.stack)[:, None]])
    together = torch.cat(targets)
    quantizer.fit(together[:: -(-len(together) // _MAX_FITTED)])


def _count_codes(model: Pretraining, kept: list[tuple[Tensor, Tensor]]) -> None:
    model.train_counts.zero_()
    for features, frames in kept:
        codes = model.targets(features.float(), frames)
        whole = torch.arange(codes.shape[1]) < (frames // model.quantizer.stack)[:, None]
        model.train_counts += count_codes(codes[whole], model.quantizer.num_classes)


class _Moments:
    """Sum and sum of squares per band in float64, over valid frames."""

    def __init__(self, bands: int) -> None:
        self.count = 0
        self.sums = torch.zeros(2, bands, dtype=torch.float64)

    def add(self, features: Tensor, frames: Tensor) -> None:
        valid = torch.arange(features.shape[-1]) < frames[:, None]
        values = features.transpose(1, 2)[valid].double()
        self.count += len(values)
        self.sums += torch.stack([values.sum(0), values.square().sum(0)])

    def result(self) -> tuple[Tensor, Tensor]:
        mean, square = self.sums / max(1, self.count)
        return mean.float(), (square - mean.square()).clamp_min(0).sqrt().float()
