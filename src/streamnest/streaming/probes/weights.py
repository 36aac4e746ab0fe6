"""Weights: perturbed and random ones, since closed gates and zero layers of a new model hide leaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from streamnest.encoder_task import EncoderTask
from streamnest.streaming.probes.batches import row_leaks
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.futures import leak_check
from streamnest.streaming.probes.modes import mode_leaks
from streamnest.streaming.probes.subject import INFERENCE, TRAINING, TRAINING_BFLOAT16, Mode, Subject
from streamnest.streaming.probes.trace import Leak


def weights(model: EncoderTask, seed: int) -> list[Check]:
    """Checks that stages depend on neither later audio nor other rows with perturbed and with random weights."""
    checks = [
        leak_check(
            "independence of batch rows, other weights", _leaks(model, seed, _mixed), "no stage depends on other rows"
        )
    ]
    if model.encoder.context.right is not None:
        checks.append(
            leak_check("stages with other weights", _leaks(model, seed, lambda *one: mode_leaks([one[0]], [one[1]])))
        )
    return checks


def _leaks(model: EncoderTask, seed: int, probe: Callable[[Subject, Mode], Iterator[Leak]]) -> Iterator[Leak]:
    for precision in (torch.float32, torch.float64):
        for subject in other_weights(Subject(model, precision), trials=2, seed=seed):
            for mode in (INFERENCE, TRAINING) if precision == torch.float64 else (TRAINING_BFLOAT16,):
                yield from probe(subject, mode)


def _mixed(subject: Subject, mode: Mode) -> Iterator[Leak]:
    for allowed in subject.rowwise([mode]):
        yield from row_leaks(subject, allowed, rows=3)


def other_weights(subject: Subject, trials: int, seed: int = 0) -> Iterator[Subject]:
    """Yields the subject with perturbed weights, then with random weights `trials` times."""
    yield subject.perturb(seed)
    for trial in range(trials):
        yield subject.randomize(seed + trial)
