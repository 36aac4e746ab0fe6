"""Batches: what other rows hold changes nothing, for batches of 1 to 32 rows of different lengths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from streamnest.encoder_task import EncoderTask
from streamnest.randomness import hash_id
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.futures import leak_check
from streamnest.streaming.probes.modes import TRAIN, USE
from streamnest.streaming.probes.reach import Stage
from streamnest.streaming.probes.sounds import noise, sound
from streamnest.streaming.probes.subject import IN_USE, TRAINING, TRAINING_BFLOAT16, Mode, Subject
from streamnest.streaming.probes.trace import Leak, Limits, first_difference

SIZES = (3, 4, 32)
_SAMPLES = 4_800


def neighbours(model: EncoderTask, seed: int) -> list[Check]:
    """Rows of a batch change nothing in each other, in use and while training; nor does their order."""
    double, single = Subject(model), Subject(model, torch.float32)
    runs = [(double, mode) for mode in double.rowwise((IN_USE, TRAINING))]
    runs += [(single, mode) for mode in single.rowwise([TRAINING_BFLOAT16])]
    sizes = [(subject, mode, rows) for subject, mode in runs for rows in SIZES]
    sizes += [(single, mode, 4) for mode in single.rowwise((*USE, *TRAIN))]
    mixed = (leak for subject, mode, rows in sizes for leak in neighbour_leaks(subject, mode, rows))
    ordered = order_leaks(Subject(model).without_dropout())
    return [leak_check("neighbours change nothing", chain(mixed, ordered), "no stage mixes rows")]


def batch(rows: int, seed: int = 7, samples: int = _SAMPLES) -> tuple[Tensor, Tensor]:
    """Audio `(rows, samples)` and lengths: different ones in no order, or the same for four rows."""
    place = torch.arange(rows) * 5 % rows if rows % 5 else torch.arange(rows)
    lengths = samples - 1 - place * (samples * 3 // 4 // rows) // 7 * 7
    return noise(samples, rows, seed), torch.full((rows,), samples) if rows == 4 else lengths


def neighbour_leaks(subject: Subject, mode: Mode, rows: int) -> Iterator[Leak]:
    """Leaks between any two rows of a batch, by changing audio, lengths and random keys of groups of rows."""
    audio, lengths = batch(rows)
    keys = torch.tensor([hash_id(f"row {row}") for row in range(rows)])
    others = torch.cat([audio[:1] * 30, sound("offset", audio.shape[1], rows, seed=23)[1:]])
    shorter = lengths * 4 // 5 - 160
    before = subject.run(audio, lengths, mode, keys)
    for changed in groups(rows):
        moved = torch.where(changed[:, None], others, audio), torch.where(changed, shorter, lengths)
        after = subject.run(*moved, mode, torch.where(changed, keys + 1, keys))
        difference = first_difference(before, after, _rows(subject, lengths, ~changed))
        if difference is not None:
            yield difference.at(f"{rows} rows, {mode.name}{subject.weights}")
            return


def groups(rows: int) -> list[Tensor]:
    """Few groups of rows `(rows,)`, such that for any two rows one group has the first without the second.

    Each row is in another choice of half of the groups, so no row is in all groups of another one.
    """
    count = next(n for n in range(2, rows + 2) if math.comb(n, n // 2) >= rows)
    choices = itertools.islice(itertools.combinations(range(count), count // 2), rows)
    members = torch.zeros(rows, count, dtype=torch.bool)
    for row, choice in enumerate(choices):
        members[row, list(choice)] = True
    return list(members.t())


def order_leaks(subject: Subject, rows: int = 5) -> Iterator[Leak]:
    """Stages of which the outputs of a row depend on its place in the batch; in float64, without dropout."""
    audio, lengths = batch(rows)
    keys = torch.tensor([hash_id(f"row {row}") for row in range(rows)])
    order = torch.arange(rows).roll(2)
    for mode in subject.rowwise((IN_USE, TRAINING)):
        before = subject.run(audio, lengths, mode, keys)
        after = subject.run(audio[order], lengths[order], mode, keys[order])
        ordered = [(stage, x[order]) for stage, x in before]
        everything = _rows(subject, lengths[order], torch.ones(rows, dtype=torch.bool))
        difference = first_difference(ordered, after, everything, tolerance=1e-10)
        if difference is not None:
            yield difference.at(f"rows in another order, {mode.name}")


def _rows(subject: Subject, lengths: Tensor, chosen: Tensor) -> Limits:
    def limits(stage: Stage) -> tuple[int, Tensor]:
        return 0, torch.where(chosen, subject.reach.valid(stage, lengths), 0)

    return limits
