"""Statistics of the training set: mean and deviation of each mel band, and frequency of each code."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from streamnest.data.batch import Batch
from streamnest.encoder_task import EncoderTask
from streamnest.pretraining import Pretraining
from streamnest.quantizer import count_codes
from streamnest.targets import TeacherQuantizer

# Most target frames used to fit codes, evenly spaced over the audio.
_MAX_FITTED = 100_000


@torch.no_grad()
def fit_statistics(
    model: EncoderTask, batches: Iterable[Batch], hours: float, device: torch.device | str = "cpu"
) -> float:
    """Fits the normalizers and counts the codes of clean training audio; checkpoints contain both.

    Makes two passes over the same batches, because codes depend on the statistics if targets are normalized globally.
    Does nothing if all statistics came with an encoder (`encoder_from`).

    Args:
        model: task whose normalizers are fitted, and in pretraining also `train_counts`.
        batches: batches of clean audio, the same on every rank.
        hours: amount of audio after which to stop.
        device: device that a teacher runs on.

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
    teacher = model.quantizer if isinstance(model, Pretraining) else None
    teacher = teacher if isinstance(teacher, TeacherQuantizer) else None
    outputs: list[Tensor] = []
    moments = _Moments(model.frontend.num_mels)
    for batch in batches:
        features, frames = model.frontend(batch.clean, batch.lengths)
        moments.add(features, frames)
        if teacher:
            outputs += _teacher_frames(teacher, batch.to(device))
        elif pretraining:
            kept.append((features.half(), frames))
        seconds += batch.seconds
        if seconds >= 3600 * hours:
            break
    mean, std = moments.result()
    for norm in norms:
        norm.set_statistics(mean, std)
    if teacher:
        _fit_teacher_codes(model, teacher, outputs)
    elif isinstance(model, Pretraining):
        _fit_codes(model, kept)
        _count_codes(model, kept)
    model.frontend.train(training)
    return seconds / 3600


def _teacher_frames(quantizer: TeacherQuantizer, batch: Batch) -> list[Tensor]:
    """Returns the teacher's outputs for the whole frames of each row, `(T', layers, d)` float16."""
    rows = zip(batch.clean, batch.lengths, strict=True)
    alone = (quantizer.frames(audio[None, : int(length)], length[None])[0] for audio, length in rows)
    return [frames.half().cpu() for frames in alone]


def _fit_teacher_codes(model: EncoderTask, quantizer: TeacherQuantizer, outputs: list[Tensor]) -> None:
    """Fits the codes of a teacher to its outputs, and counts them."""
    total = sum(map(len, outputs))
    step = -(-total // _MAX_FITTED) or 1
    together = torch.cat(outputs)[::step].float() if outputs else torch.empty(0)
    quantizer.fit(together)
    counts: Tensor = model.get_buffer("train_counts").zero_()
    for frames in outputs:
        counts += count_codes(quantizer.quantize(frames), quantizer.num_classes)


def _fit_codes(model: Pretraining, kept: list[tuple[Tensor, Tensor]]) -> None:
    quantizer = model.feature_quantizer
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
