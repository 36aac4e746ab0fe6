"""Weights: gates that are closed at the start, layers that begin at zero, other draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from streamnest.encoder_task import EncoderTask
from streamnest.streaming.probes.batches import neighbour_leaks
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.futures import leak_check
from streamnest.streaming.probes.modes import mode_leaks
from streamnest.streaming.probes.subject import IN_USE, TRAINING, TRAINING_BFLOAT16, Mode, Subject
from streamnest.streaming.probes.trace import Leak


def weights(model: EncoderTask, seed: int) -> list[Check]:
    """Audio after a chunk changes no stage before it, also if no weight is exactly zero or one, and with others."""
    checks = [leak_check("neighbours, other weights", _leaks(model, seed, _mixed), "none mixes rows")]
    if model.encoder.context.right is not None:
        checks.append(
            leak_check("stages, other weights", _leaks(model, seed, lambda *one: mode_leaks([one[0]], [one[1]])))
        )
    return checks


def _leaks(model: EncoderTask, seed: int, probe: Callable[[Subject, Mode], Iterator[Leak]]) -> Iterator[Leak]:
    for precision in (torch.float32, torch.float64):
        for subject in other_weights(Subject(model, precision), draws=2, seed=seed):
            for mode in (IN_USE, TRAINING) if precision == torch.float64 else (TRAINING_BFLOAT16,):
                yield from probe(subject, mode)


def _mixed(subject: Subject, mode: Mode) -> Iterator[Leak]:
    for allowed in subject.rowwise([mode]):
        yield from neighbour_leaks(subject, allowed, rows=3)


def other_weights(subject: Subject, draws: int, seed: int = 0) -> Iterator[Subject]:
    """The subject with its zeros and ones moved, then with other weights again and again."""
    yield subject.perturb(seed)
    for draw in range(draws):
        yield subject.redraw(seed + draw)
