"""Weights: gates that are closed at the start, layers that begin at zero, other draws."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from streamnest.streaming.probes.batches import neighbour_leaks
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.futures import stages_check
from streamnest.streaming.probes.modes import mode_leaks
from streamnest.streaming.probes.subject import IN_USE, TRAINING, TRAINING_BFLOAT16, Subject
from streamnest.streaming.probes.trace import Difference
from streamnest.task import EncoderTask


def weights(model: EncoderTask, seed: int) -> list[Check]:
    """Audio after a chunk changes no stage before it, also if no weight is exactly zero or one, and with others."""
    found, mixed = list[tuple[str, Difference]](), list[tuple[str, Difference]]()
    for precision in (torch.float64, torch.float32):
        for subject in other_weights(Subject(model, precision), draws=2, seed=seed):
            chosen = (IN_USE, TRAINING) if precision == torch.float64 else (TRAINING_BFLOAT16,)
            found += mode_leaks([subject], chosen) if subject.promised else []
            mixed += [leak for mode in subject.rowwise(chosen) for leak in neighbour_leaks(subject, mode, rows=3)]
    checks = [stages_check("stages, other weights", found)] if model.encoder.context.right is not None else []
    measured = f"the {mixed[0][1].stage.label} does ({mixed[0][0]})" if mixed else "none does"
    return [*checks, Check("neighbours, other weights", "no stage mixes rows", measured, not mixed)]


def other_weights(subject: Subject, draws: int, seed: int = 0) -> Iterator[Subject]:
    """The subject with its zeros and ones moved, then with other weights again and again."""
    yield subject.perturb(seed)
    for draw in range(draws):
        yield subject.redraw(seed + draw)
