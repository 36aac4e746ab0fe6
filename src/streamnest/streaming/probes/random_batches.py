"""Random batches of any size, length, loudness, mode and position, changed after a chunk and in other rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from streamnest.encoder_task import EncoderTask
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.futures import known_frames, leak_check
from streamnest.streaming.probes.modes import INFERENCE_MODES, TRAINING_MODES
from streamnest.streaming.probes.reach import Reach, Stage
from streamnest.streaming.probes.sounds import noise
from streamnest.streaming.probes.subject import Mode, Subject
from streamnest.streaming.probes.trace import FrameLimits, Leak, first_difference

BATCHES, SECONDS = 60, 40.0
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16)
_SHORTEST = 0.15
# Audio of one batch: long batches have fewer rows, and batches of many rows are shorter.
_MOST_SECONDS = 12.0
_PEAKS = 1e-3, 3.0


class Size(NamedTuple):
    """Size of a random batch: mode, rows, longest row in samples and largest sample."""

    mode: Mode
    rows: int
    samples: int
    peak: float


def random_batches(model: EncoderTask, seed: int) -> list[Check]:
    """Checks that neither later audio nor other rows change a stage, in random batches."""
    subjects = [Subject(model, precision) for precision in (torch.float64, torch.float32)]
    subjects += [Subject(model, precision).perturb(seed) for precision in (torch.float64, torch.float32)]
    leaks = random_leaks(subjects, seed, BATCHES, SECONDS)
    return [leak_check("stages in random batches", leaks, "no stage depends on later audio or other rows")]


def random_leaks(subjects: Sequence[Subject], seed: int, count: int, seconds: float) -> Iterator[Leak]:
    """Finds leaks in random batches.

    Args:
        subjects: the same model in several precisions or with several sets of weights.
        seed: seed of the batches.
        count: number of batches.
        seconds: duration of the longest batch.
    """
    generator = torch.Generator().manual_seed(seed)
    for number, size in enumerate(sizes(subjects[0].reach, generator, count, seconds)):
        fitting = [one for one in subjects if not size.mode.bfloat16 or one.precision == torch.float32]
        subject = fitting[number % len(fitting)]
        leak = _leak(subject, size, generator)
        if leak is not None:
            yield leak


def sizes(reach: Reach, generator: torch.Generator, count: int, seconds: float) -> Iterator[Size]:
    """Samples sizes that cover the range of each quantity evenly, in random combinations (a Latin hypercube)."""
    modes, number = (*INFERENCE_MODES, *TRAINING_MODES), torch.randperm(count, generator=generator)
    lengths, peaks = _even(_SHORTEST, seconds, count, generator), _even(*_PEAKS, count, generator)
    steps = _even(1, 1e6, count, generator)
    for index, length in enumerate(lengths):
        mode = replace(modes[index % len(modes)], step=int(steps[index]))
        rows = ROWS[int(number[index]) % len(ROWS)]
        # Two of three batches keep the sampled number of rows, the others the sampled length.
        if index % 3:
            length = min(length, _MOST_SECONDS / rows)
        rows = min(rows, max(1, int(_MOST_SECONDS / length)))
        yield Size(mode, rows, int(length * reach.frontend.sample_rate), peaks[index])


def _even(low: float, high: float, count: int, generator: torch.Generator) -> list[float]:
    """Samples one number from each of `count` logarithmically equal parts of a range, in random order."""
    parts = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
    return [low * (high / low) ** float(part / count) for part in parts]


def _leak(subject: Subject, size: Size, generator: torch.Generator) -> Leak | None:
    """Finds the first stage that changes with the audio after a chunk of its row, or with other rows."""

    def chance(of: float = 0.5) -> Tensor:
        return torch.rand(size.rows, generator=generator) < of

    reach, mode, rows = subject.reach, size.mode, size.rows
    lengths = _lengths(size, generator)
    audio, other = _audio(size, size.peak, generator), _audio(size, _even(*_PEAKS, 1, generator)[0], generator)
    chunks = (torch.rand(rows, generator=generator) * (lengths // (reach.chunk * reach.span) + 1)).long()
    boundary = torch.tensor([reach.boundary(int(n) * reach.chunk) for n in chunks])
    replaced = chance() & (torch.arange(rows) != torch.randint(rows, (1,), generator=generator))
    boundary = torch.where(replaced, 0, boundary)
    changed = torch.where(torch.arange(size.samples) < boundary[:, None], audio, other)
    # The mask of a row may depend on its own length, but not on the lengths of other rows.
    ended = replaced | (chance() & (not mode.hide))
    until = torch.where(ended, torch.minimum(lengths, boundary + 3 * reach.hop), lengths)
    keys = torch.arange(rows)
    before = subject.run(audio, lengths, mode, keys)
    after = subject.run(changed, until, mode, torch.where(replaced, keys + rows, keys))
    limits = _others(known_frames(reach, boundary, until), replaced)
    difference = first_difference(before, after, limits)
    place = f"{rows} rows of {size.samples / reach.frontend.sample_rate:.2f} s, peak {size.peak:.2g}, {mode.name}"
    return None if difference is None else difference.at(place + subject.weights)


def _others(limits: FrameLimits, replaced: Tensor) -> FrameLimits:
    def kept(stage: Stage) -> tuple[Tensor | int, Tensor | int]:
        first, last = limits(stage)
        return first, torch.where(replaced, 0, torch.as_tensor(last))

    return kept


def _lengths(size: Size, generator: torch.Generator) -> Tensor:
    """Samples lengths: any row may be the longest; in every fourth batch, on average, all are equal."""
    shares = 0.2 + 0.8 * torch.rand(size.rows, generator=generator)
    shares[torch.randint(size.rows, (1,), generator=generator)] = 1.0
    equal = torch.rand(1, generator=generator) < 0.25
    return torch.where(equal, size.samples, (shares * size.samples).long().clamp_min(1))


def _audio(size: Size, peak: float, generator: torch.Generator) -> Tensor:
    """Returns noise with a given peak, with or without an offset."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    offset = float(torch.randint(-1, 2, (1,), generator=generator)) / 3
    audio = noise(size.samples, size.rows, seed)
    audio = audio / audio.abs().max() + offset
    return audio / audio.abs().max() * peak
