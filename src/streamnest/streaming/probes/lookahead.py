"""Look-ahead: the last sample that changes an output, measured by changing samples and by gradients."""

from __future__ import annotations

import torch

from streamnest.encoder_task import EncoderTask
from streamnest.latency import last_visible_frame
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.sounds import noise
from streamnest.streaming.probes.subject import Subject
from streamnest.streaming.receptive_field import Prober

# Random weights to try until the outputs depend on their whole declared receptive field.
_TRIALS = 8
# Large, so that the last tap of the window is not lost to rounding.
_CHANGE = 300.0


def lookahead(model: EncoderTask, seed: int) -> list[Check]:
    """Compares the look-ahead of the first, middle and last frame of a chunk with two measurements.

    Outputs must never depend on later samples than declared, and must depend on the last declared one with the weights
    of the model or with random ones, since dead or saturated units may hide its influence.
    """
    subject = Subject(model)
    first: list[Check] = []
    for trial in range(_TRIALS):
        results = _phases(subject)
        first = first or [check for check, _ in results]
        if all(check.passed for check, _ in results):
            return [check for check, _ in results]
        if any(late for _, late in results):
            break
        subject = subject.perturb(seed) if trial == 0 else subject.randomize(seed + trial)
    return first


def _phases(subject: Subject) -> list[tuple[Check, bool]]:
    """Checks the frames of a chunk; returns each check, and whether the look-ahead exceeds the declared one."""
    reach = subject.reach
    first = reach.chunk * max(1, -(-6 // reach.chunk))
    results = []
    for phase in sorted({0, reach.chunk // 2, reach.chunk - 1}):
        last = last_visible_frame(subject.model.encoder, first + phase)
        if last is not None:
            results += _measured(subject, first + phase, phase, last)
    return results


def _measured(subject: Subject, frame: int, phase: int, last: int) -> list[tuple[Check, bool]]:
    reach = subject.reach
    feature = (last + 1) * reach.subsampling.factor - 1 + reach.subsampling.lookahead
    sample = (feature + 1) * reach.hop - 1 + reach.frontend.lookahead_samples
    samples = (last + 6) * reach.span + reach.hop // 2
    by_sample = _last_sample(subject, frame, sample, samples)
    by_gradient = _last_feature(subject, frame, samples)
    name, end = f"frame {phase + 1} of {reach.chunk}", (frame + 1) * reach.span

    def after_span(last_sample: int) -> str:
        return f"{(last_sample + 1 - end) * 1000 / reach.frontend.sample_rate:.4f} ms"

    ahead = "no influence" if by_sample is None else after_span(by_sample) + subject.weights
    by_feature = "no influence" if by_gradient is None else f"feature {by_gradient}"
    return [
        (Check(f"look-ahead, {name}", after_span(sample), ahead, by_sample == sample), (by_sample or 0) > sample),
        (
            Check(f"look-ahead by gradient, {name}", f"feature {feature}", by_feature, by_gradient == feature),
            (by_gradient or 0) > feature,
        ),
    ]


def _last_sample(subject: Subject, frame: int, declared: int, samples: int) -> int | None:
    """Finds the last sample that changes a frame, by bisection unless it is the declared one; None if none does."""
    audio = noise(samples)
    before = subject.run(audio)[-1][1][0, frame]

    def changes(start: int) -> bool:
        moved = audio.clone()
        moved[:, start:] += _CHANGE
        return not torch.equal(subject.run(moved)[-1][1][0, frame], before)

    if changes(declared) and not changes(declared + 1):
        return declared
    low, high = 0, samples  # a change from `low` on has an effect, a change from `high` on has none
    if not changes(low):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if changes(middle) else (low, middle)
    return low


def _last_feature(subject: Subject, frame: int, samples: int) -> int | None:
    visible = Prober(subject.model).influence([frame], samples)[0].nonzero()
    return int(visible.max()) if len(visible) else None
