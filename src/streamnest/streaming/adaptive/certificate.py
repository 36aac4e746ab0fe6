"""Certificate of adaptive look-ahead: switching contexts changes no frame, and no frame is later than the largest."""

from __future__ import annotations

import torch
from torch import Tensor

from streamnest.encoder_task import EncoderTask
from streamnest.streaming.adaptive.chosen_chunks import forward_with_chunks
from streamnest.streaming.adaptive.contexts import adaptive_contexts
from streamnest.streaming.adaptive.session import AdaptiveSession, AdaptiveSettings
from streamnest.streaming.probes.check import TOLERANCES, Check, at_most
from streamnest.streaming.probes.sounds import noise
from streamnest.streaming.probes.subject import Subject
from streamnest.streaming.simulation import emission_samples

# Seconds of each stream.
_SECONDS = (4.0, 3.1, 2.3)


def adaptive_look_ahead(model: EncoderTask, seed: int) -> list[Check]:
    """Compares streams with random contexts with the offline output, and their latency with the largest context's."""
    name = "streams that change the context"
    checks = [
        at_most(f"{name}, {dtype}", lambda dtype=dtype: _difference(model, dtype, seed), tolerance)  # type: ignore[misc]
        for dtype, tolerance in TOLERANCES.items()
    ]
    worst, bound = _worst_delay_ms(Subject(model, torch.float32).model)
    return [*checks, Check(f"{name}, latency", f"at most {bound:.1f} ms", f"{worst:.1f} ms", worst <= bound + 1e-6)]


def _session(model: EncoderTask, rule: str, seed: int = 0) -> AdaptiveSession:
    contexts = adaptive_contexts(model)
    budget = (contexts[0].mean_ms + contexts[-1].mean_ms) / 2
    return AdaptiveSession(model, AdaptiveSettings(budget, rule, seed=seed))


def _difference(model: EncoderTask, precision: str, seed: int) -> float:
    """Streams several signals together, each with contexts of its own, and returns the largest difference."""
    subject = Subject(model, getattr(torch, precision)).perturb(seed)
    session, rate = _session(subject.model, "random", seed), subject.model.sample_rate
    lengths = [round(seconds * rate) for seconds in _SECONDS]
    audio = noise(max(lengths), len(lengths)).to(subject.model.frontend.window)
    numbers, frames = [session.open() for _ in lengths], dict[int, list[Tensor]]()
    for start in range(0, max(lengths), 1009):
        pieces = {n: audio[n, start : min(start + 1009, end)] for n, end in zip(numbers, lengths, strict=True)}
        for number, part in session.push(pieces).items():
            frames.setdefault(number, []).append(part)
    last = session.flush(numbers)
    chunks = [session.flushed[number].chunks for number in numbers]
    offline, valid = forward_with_chunks(subject.model, audio, torch.tensor(lengths), chunks)
    differences = [offline[n, : int(valid[n])] - torch.cat([*frames[n], last[n]]) for n in numbers]
    return max(float(difference.abs().max()) for difference in differences)


def _worst_delay_ms(model: EncoderTask) -> tuple[float, float]:
    """Measures the longest time from the first sample of a target span to its frame; returns it and its bound.

    The stream has the largest context as often as the budget allows, and smaller ones in between.
    """
    session = _session(model, f"fixed:{adaptive_contexts(model)[-1].name}")
    audio = noise(round(_SECONDS[0] * session.sample_rate))[0].to(model.frontend.window)
    times = emission_samples(session, audio)
    ms = 1000 / session.sample_rate
    delays = (time * ms - (frame - session.target_shift) * session.frame_ms for frame, time in enumerate(times))
    return max(delays), session.worst_ms
