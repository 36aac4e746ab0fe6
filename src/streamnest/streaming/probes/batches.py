"""Independence of the rows of a batch, for batches of 1 to 32 rows of different lengths."""

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
from streamnest.streaming.probes.modes import INFERENCE_MODES, TRAINING_MODES
from streamnest.streaming.probes.reach import Stage
from streamnest.streaming.probes.sounds import noise, sound
from streamnest.streaming.probes.subject import INFERENCE, TRAINING, TRAINING_BFLOAT16, Mode, Subject
from streamnest.streaming.probes.trace import FrameLimits, Leak, first_difference

SIZES = (3, 4, 32)
_SAMPLES = 4_800


def neighbors(model: EncoderTask, seed: int) -> list[Check]:
    """Checks that neither other rows of a batch nor their order change a row, in inference and training."""
    double, single = Subject(model), Subject(model, torch.float32)
    runs = [(double, mode) for mode in double.rowwise((INFERENCE, TRAINING))]
    runs += [(single, mode) for mode in single.rowwise([TRAINING_BFLOAT16])]
    sizes = [(subject, mode, rows) for subject, mode in runs for rows in SIZES]
    sizes += [(single, mode, 4) for mode in single.rowwise((*INFERENCE_MODES, *TRAINING_MODES))]
    mixed = (leak for subject, mode, rows in sizes for leak in row_leaks(subject, mode, rows))
    ordered = order_leaks(Subject(model).without_dropout())
    return [leak_check("independence of batch rows", chain(mixed, ordered), "no stage depends on other rows")]


def batch(rows: int, seed: int = 7, samples: int = _SAMPLES) -> tuple[Tensor, Tensor]:
    """Returns audio `(rows, samples)` and lengths: different and unsorted, or equal for four rows."""
    place = torch.arange(rows) * 5 % rows if rows % 5 else torch.arange(rows)
    lengths = samples - 1 - place * (samples * 3 // 4 // rows) // 7 * 7
    return noise(samples, rows, seed), torch.full((rows,), samples) if rows == 4 else lengths


def row_leaks(subject: Subject, mode: Mode, rows: int) -> Iterator[Leak]:
    """Finds leaks between any two rows by changing audio, lengths and random keys of groups of rows."""
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
    """Returns few groups of rows `(rows,)`, such that for any two rows a group has the first but not the second.

    Each row belongs to a different half of the groups, so that no row is in all groups of another row.
    """
    count = next(n for n in range(2, rows + 2) if math.comb(n, n // 2) >= rows)
    choices = itertools.islice(itertools.combinations(range(count), count // 2), rows)
    members = torch.zeros(rows, count, dtype=torch.bool)
    for row, choice in enumerate(choices):
        members[row, list(choice)] = True
    return list(members.t())


def order_leaks(subject: Subject, rows: int = 5) -> Iterator[Leak]:
    """Finds stages whose output for a row depends on its position in the batch; in float64, without dropout."""
    audio, lengths = batch(rows)
    keys = torch.tensor([hash_id(f"row {row}") for row in range(rows)])
    order = torch.arange(rows).roll(2)
    for mode in subject.rowwise((INFERENCE, TRAINING)):
        before = subject.run(audio, lengths, mode, keys)
        after = subject.run(audio[order], lengths[order], mode, keys[order])
        ordered = [(stage, x[order]) for stage, x in before]
        everything = _rows(subject, lengths[order], torch.ones(rows, dtype=torch.bool))
        difference = first_difference(ordered, after, everything, tolerance=1e-10)
        if difference is not None:
            yield difference.at(f"permuted rows, {mode.name}")


def _rows(subject: Subject, lengths: Tensor, chosen: Tensor) -> FrameLimits:
    def limits(stage: Stage) -> tuple[int, Tensor]:
        return 0, torch.where(chosen, subject.reach.valid(stage, lengths), 0)

    return limits
