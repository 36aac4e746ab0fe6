"""Padding: independence of its values and its amount."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from streamnest.encoder_task import EncoderTask
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.futures import leak_check
from streamnest.streaming.probes.reach import Reach
from streamnest.streaming.probes.sounds import noise, random_like, sound
from streamnest.streaming.probes.subject import INFERENCE, TRAINING, TRAINING_BFLOAT16, Mode, Subject
from streamnest.streaming.probes.trace import FrameLimits, Leak, Trace, first_difference


def padding(model: EncoderTask, seed: int) -> list[Check]:
    """Checks that neither the values of padded samples and features nor their number change a frame."""
    double, single = Subject(model), Subject(model, torch.float32)
    return [leak_check("independence of padding", _leaks(double, single, seed), "no stage depends on padding")]


def _leaks(double: Subject, single: Subject, seed: int) -> Iterator[Leak]:
    modes = double.rowwise((INFERENCE, TRAINING))
    for mode in modes:
        yield from padding_leaks(double, mode)
    for mode in single.rowwise([TRAINING_BFLOAT16]):
        yield from padding_leaks(single, mode)
    double.without_dropout()
    for mode in modes:
        yield from amount_leaks(double, mode)
    yield from amount_leaks(double.perturb(seed), INFERENCE)


def padded_lengths(reach: Reach) -> Tensor:
    """Returns lengths of utterances that end in every part of a chunk, with and without a window over their end."""
    frames = [1, 2, reach.chunk, *range(reach.chunk + 1, 2 * reach.chunk + 1, max(1, reach.chunk // 4)), 12]
    rests = (0, 1, reach.hop // 4 - 1, reach.hop - 1, reach.hop, 3 * reach.hop + 5)
    return torch.tensor([max(1, f * reach.span - r * (f > 1)) for f, r in zip(frames, rests * len(frames))])


def padding_leaks(subject: Subject, mode: Mode) -> Iterator[Leak]:
    """Finds stages in which an utterance changes with the values of its padding, bit for bit."""
    lengths = padded_lengths(subject.reach)
    samples = int(lengths.max()) + 5 * subject.reach.span
    audio = noise(samples, len(lengths))
    inside = torch.arange(samples) < lengths[:, None]
    limits = _inside(subject.reach, lengths)
    before = subject.run(torch.where(inside, audio, 0), lengths, mode)
    garbage = torch.where(inside, audio, sound("loud", samples, len(lengths), seed=5) + 0.37)
    difference = first_difference(before, subject.run(garbage, lengths, mode), limits)
    if difference is not None:
        yield difference.at(f"padded samples, {mode.name}{subject.weights}")
        return
    difference = first_difference(
        before, _garbage_features(subject, torch.where(inside, audio, 0), lengths, mode), limits
    )
    if difference is not None:
        yield difference.at(f"padded features, {mode.name}{subject.weights}")


def _garbage_features(subject: Subject, audio: Tensor, lengths: Tensor, mode: Mode) -> Trace:
    def spoil(_module: object, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        features, frames = args
        inside = (torch.arange(features.shape[-1], device=features.device) < frames[:, None])[:, None]
        return torch.where(inside, features, 5 * random_like(features, seed=3)), frames

    handle = subject.model.encoder.register_forward_pre_hook(spoil)
    try:
        return subject.run(audio, lengths, mode)
    finally:
        handle.remove()


def amount_leaks(subject: Subject, mode: Mode) -> Iterator[Leak]:
    """Finds stages in which an utterance differs alone and in a padded batch; in float64, without dropout."""
    lengths = padded_lengths(subject.reach)
    samples = int(lengths.max()) + 9_000
    audio = torch.where(torch.arange(samples) < lengths[:, None], noise(samples, len(lengths)), 0)
    keys = torch.arange(len(lengths))
    together = subject.run(audio, lengths, mode, keys)
    for row, length in enumerate(lengths.tolist()):
        alone = subject.run(audio[row : row + 1, :length], None, mode, keys[row : row + 1])
        in_batch = [(stage, x[row : row + 1]) for stage, x in together]
        limits = _inside(subject.reach, lengths[row : row + 1])
        difference = first_difference(alone, in_batch, limits, tolerance=1e-10)
        if difference is not None:
            yield difference.at(f"alone or in a batch, {mode.name}{subject.weights}")
            return


def _inside(reach: Reach, lengths: Tensor) -> FrameLimits:
    return lambda stage: (0, reach.valid(stage, lengths))
