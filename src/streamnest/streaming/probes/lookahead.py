"""Look-ahead: the last sample that changes an output, by changing samples and by gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from streamnest.latency import last_heard
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.futures import middle
from streamnest.streaming.probes.reach import Stage
from streamnest.streaming.probes.sounds import noise, with_future
from streamnest.streaming.probes.subject import Subject
from streamnest.streaming.probing import Prober
from streamnest.task import EncoderTask

# Draws of weights until one is found whose outputs depend on their input.
_DRAWS = 8


def lookahead(model: EncoderTask, seed: int) -> list[Check]:
    """Look-ahead of the first, middle and last frame of a chunk: declared and measured twice."""
    subject = _responsive(Subject(model), seed)
    encoder, reach = subject.model.encoder, subject.reach
    first = reach.chunk * max(1, -(-6 // reach.chunk))
    checks = []
    for phase in sorted({0, reach.chunk // 2, reach.chunk - 1}):
        last = last_heard(encoder, first + phase)
        if last is not None:
            checks += _measured(subject, first + phase, phase, last)
    return checks


def _measured(subject: Subject, frame: int, phase: int, last: int) -> list[Check]:
    reach = subject.reach
    feature = (last + 1) * reach.stem.factor - 1 + reach.stem.lookahead
    sample = (feature + 1) * reach.hop - 1 + reach.frontend.lookahead_samples
    samples = (last + 6) * reach.block + reach.hop // 2
    by_sample = _last_sample(subject, frame, sample, samples)
    by_gradient = _last_feature(subject, frame, samples)
    name, unit, end = f"frame {phase + 1} of {reach.chunk}", 1000 / reach.frontend.sample_rate, (frame + 1) * reach.block
    ahead = "no influence" if by_sample is None else f"{(by_sample + 1 - end) * unit:.4f} ms{subject.weights}"
    return [
        Check(f"look-ahead, {name}", f"{(sample + 1 - end) * unit:.4f} ms", ahead, by_sample == sample),
        Check(
            f"look-ahead by gradient, {name}",
            f"feature {feature}",
            "no influence" if by_gradient is None else f"feature {by_gradient}",
            by_gradient == feature,
        ),
    ]


def _last_sample(subject: Subject, frame: int, declared: int, samples: int) -> int | None:
    """The last sample that changes a frame: the declared one if it does and no later one, else found by bisection."""
    prober = Prober(subject.model)
    audio = prober.audio(samples)
    before = prober.run(audio)[0][0, frame]

    def changes(start: int) -> bool:
        moved = with_future(audio, torch.tensor([start]), "shifted")
        return not torch.equal(prober.run(moved)[0][0, frame], before)

    if changes(declared) and not changes(declared + 1):
        return declared
    return prober.last_sample(frame, samples) if changes(0) else None


def _last_feature(subject: Subject, frame: int, samples: int) -> int | None:
    heard = Prober(subject.model).influence([frame], samples)[0].nonzero()
    return int(heard.max()) if len(heard) else None


def _responsive(subject: Subject, seed: int) -> Subject:
    """The subject, with other weights if its outputs do not depend on the last sample that they may hear."""
    for draw in range(_DRAWS):
        if _responds(subject):
            break
        subject.perturb(seed + draw) if draw == 0 else subject.redraw(seed + draw)
    return subject


def _responds(subject: Subject) -> bool:
    boundary, samples = middle(subject.reach)
    audio = noise(samples)
    frame = int(subject.reach.known(Stage("", "encoder"), torch.tensor(boundary))) - 1
    last: Tensor = subject.run(with_future(audio, torch.tensor([boundary - 1]), "shifted"))[-1][1][0, frame]
    return not torch.equal(last, subject.run(audio)[-1][1][0, frame])
