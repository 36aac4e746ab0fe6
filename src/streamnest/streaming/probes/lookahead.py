"""Look-ahead: the last sample that changes an output, by changing samples and by gradients."""

from __future__ import annotations

import torch

from streamnest.encoder_task import EncoderTask
from streamnest.latency import last_visible_frame
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.sounds import noise
from streamnest.streaming.probes.subject import Subject
from streamnest.streaming.receptive_field import Prober

# Draws of weights until one is found whose outputs depend on all that they may hear.
_DRAWS = 8
# Large, so that the last tap of the window is not lost in rounding.
_CHANGE = 300.0


def lookahead(model: EncoderTask, seed: int) -> list[Check]:
    """Look-ahead of the first, middle and last frame of a chunk: declared and measured twice.

    Outputs must never hear more than declared, and must hear that much with the weights of the model or with others:
    dead or saturated units may hide the influence of the last samples.
    """
    subject = Subject(model)
    first: list[Check] = []
    for draw in range(_DRAWS):
        found = _phases(subject)
        first = first or [check for check, _ in found]
        if all(check.passed for check, _ in found):
            return [check for check, _ in found]
        if any(late for _, late in found):
            break
        subject = subject.perturb(seed) if draw == 0 else subject.redraw(seed + draw)
    return first


def _phases(subject: Subject) -> list[tuple[Check, bool]]:
    """Checks of the frames of a chunk, each with whether more is heard than declared."""
    reach = subject.reach
    first = reach.chunk * max(1, -(-6 // reach.chunk))
    found = []
    for phase in sorted({0, reach.chunk // 2, reach.chunk - 1}):
        last = last_visible_frame(subject.model.encoder, first + phase)
        if last is not None:
            found += _measured(subject, first + phase, phase, last)
    return found


def _measured(subject: Subject, frame: int, phase: int, last: int) -> list[tuple[Check, bool]]:
    reach = subject.reach
    feature = (last + 1) * reach.subsampling.factor - 1 + reach.subsampling.lookahead
    sample = (feature + 1) * reach.hop - 1 + reach.frontend.lookahead_samples
    samples = (last + 6) * reach.block + reach.hop // 2
    by_sample = _last_sample(subject, frame, sample, samples)
    by_gradient = _last_feature(subject, frame, samples)
    name, end = f"frame {phase + 1} of {reach.chunk}", (frame + 1) * reach.block

    def milliseconds(last_sample: int) -> str:
        return f"{(last_sample + 1 - end) * 1000 / reach.frontend.sample_rate:.4f} ms"

    ahead = "no influence" if by_sample is None else milliseconds(by_sample) + subject.weights
    by_feature = "no influence" if by_gradient is None else f"feature {by_gradient}"
    return [
        (Check(f"look-ahead, {name}", milliseconds(sample), ahead, by_sample == sample), (by_sample or 0) > sample),
        (
            Check(f"look-ahead by gradient, {name}", f"feature {feature}", by_feature, by_gradient == feature),
            (by_gradient or 0) > feature,
        ),
    ]


def _last_sample(subject: Subject, frame: int, declared: int, samples: int) -> int | None:
    """The last sample that changes a frame: the declared one if it does and no later one, else found by bisection."""
    audio = noise(samples)
    before = subject.run(audio)[-1][1][0, frame]

    def changes(start: int) -> bool:
        moved = audio.clone()
        moved[:, start:] += _CHANGE
        return not torch.equal(subject.run(moved)[-1][1][0, frame], before)

    if changes(declared) and not changes(declared + 1):
        return declared
    low, high = 0, samples  # changing from `low` on matters, from `high` on does not
    if not changes(low):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if changes(middle) else (low, middle)
    return low


def _last_feature(subject: Subject, frame: int, samples: int) -> int | None:
    heard = Prober(subject.model).influence([frame], samples)[0].nonzero()
    return int(heard.max()) if len(heard) else None
