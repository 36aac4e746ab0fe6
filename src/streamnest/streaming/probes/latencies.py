"""Latency measured at the output of a session, and the context of the encoder compared with the config."""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from streamnest.encoder_task import EncoderTask
from streamnest.formatting import milliseconds
from streamnest.latency import LatencyReport
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.sounds import noise
from streamnest.streaming.probes.subject import Subject
from streamnest.streaming.session import StreamingSession
from streamnest.streaming.simulation import emission_samples

# Random weights to try until the subsampling depends on its whole declared receptive field.
_TRIALS = 8


def latencies(model: EncoderTask, seed: int) -> list[Check]:
    """Compares look-ahead, mean and worst latency of the report with the times at which a session emits frames."""
    subject = Subject(model, torch.float32)
    session = StreamingSession(subject.model)
    samples = session.first_samples + 3 * session.chunk_samples
    times = emission_samples(session, subject.place(noise(samples)[0]))
    report, rate = model.latency, subject.reach.frontend.sample_rate / 1000
    overhang = subject.reach.frontend.window_overhang_ms - report.front_end_ms
    waits, ahead = _waits(subject, times)
    figures = {
        "look-ahead by emission time": (report.lookahead_ms, ahead / rate - overhang),
        "algorithmic latency, mean": (report.latency_mean_ms, sum(waits) / len(waits) / rate - report.frame_ms / 2),
        "algorithmic latency, worst": (report.latency_worst_ms, max(waits) / rate),
    }
    checks = [
        Check(name, f"{declared:.4f} ms", f"{measured:.4f} ms", math.isclose(declared, measured, abs_tol=1e-6))
        for name, (declared, measured) in figures.items()
    ]
    wrong = [
        f"{name}: {a:.4f}, measured {b:.4f}"
        for name, (a, b) in _figures(subject, report, times).items()
        if not math.isclose(a, b, abs_tol=1e-6)
    ]
    return [
        *checks,
        Check("other values of the latency report", "as measured", "; ".join(wrong) or "as measured", not wrong),
    ]


def _figures(subject: Subject, report: LatencyReport, times: list[int]) -> dict[str, tuple[float, float]]:
    """Returns the other values of the report, declared and measured."""
    reach, rate = subject.reach, subject.reach.frontend.sample_rate / 1000
    steps = sorted(set(times))
    front, subsampling = _front_end_ahead(subject), _subsampling_ahead(subject) * reach.hop
    unit, left = (steps[2] - steps[1]) / rate, reach.context.left
    return {
        "chunk_ms": (report.chunk_ms, unit),
        "frame_ms": (report.frame_ms, unit / times.count(steps[1])),
        "left_ms": (report.left_ms, math.inf if left is None else left * report.frame_ms),
        "front_end_ms": (report.front_end_ms, front / rate),
        "subsampling_ms": (report.subsampling_ms, subsampling / rate),
        "context_ms": (report.context_ms, report.lookahead_ms - (front + subsampling) / rate),
        "lookahead_samples": (report.lookahead_samples or 0, report.lookahead_ms * rate),
    }


def _front_end_ahead(subject: Subject) -> int:
    """Counts the samples after its own hop that change a feature frame; row n changes all samples from the n-th on."""
    hop, frame, window = subject.reach.hop, 8, len(subject.reach.frontend.window)
    audio = subject.place(noise((frame + 4) * hop + window)).repeat(2 * window, 1)
    end = (frame + 1) * hop
    later = torch.arange(audio.shape[1]) >= end - window + torch.arange(2 * window)[:, None]
    rows = torch.cat([audio[:1], audio + 300.0 * later.to(audio)])
    lengths = torch.full((len(rows),), rows.shape[1], device=subject.device)
    features = subject.model.frontend(rows, lengths)[0][:, :, frame]
    return int((features[1:] != features[:1]).any(1).sum()) - window


def _subsampling_ahead(subject: Subject) -> int:
    """Counts the feature frames after its target span that change an output of the subsampling.

    Random weights are tried as well, since dead units may hide an influence.
    """
    ahead = [_subsampling_influence(subject)]
    for trial in range(_TRIALS):
        if ahead[-1] >= subject.reach.subsampling.lookahead:
            break
        ahead.append(_subsampling_influence(subject.randomize(trial)))
    return max(ahead)


def _subsampling_influence(subject: Subject) -> int:
    """Counts them for the current weights; row n of a batch changes all feature frames from the n-th on."""
    subsampling, frame = subject.model.encoder.subsampling, 4
    span, end = 4 * subsampling.factor, 5 * subsampling.factor
    features = (
        noise((end + span) * subject.model.frontend.num_mels).reshape(1, -1, end + span).to(subsampling.out.weight)
    )
    later = torch.arange(end + span) >= end - span + torch.arange(2 * span)[:, None]
    rows = torch.cat([features, features + 3.0 * later[:, None].to(features)])
    with torch.no_grad():
        out = subsampling(rows, torch.full((len(rows),), end + span, device=subject.device))[0][:, frame]
    changed = (out[1:] != out[:1]).any(1)
    return int(changed.sum()) - span


def _waits(subject: Subject, times: list[int]) -> tuple[list[int], int]:
    """Returns samples from the start of each target span to its frame, and the most from the end of a frame's span."""
    reach, shift = subject.reach, subject.reach.encoder.target_shift
    first = -(-shift // reach.chunk) * reach.chunk
    frames = range(first, first + (len(times) - first) // reach.chunk * reach.chunk)
    if not frames:
        raise RuntimeError("the session emits no frames before the end of a stream")
    waits = [times[frame] - (frame - shift) * reach.span for frame in frames]
    return waits, max(times[frame] - (frame + 1) * reach.span for frame in frames)


def promises(model: EncoderTask, seed: int) -> list[Check]:
    """Compares the context of the encoder with the stored config and the name of the preset."""
    configured = configured_context(model)
    if configured is None:
        return []
    left, right, name = configured
    context, unit = model.encoder.context, model.encoder.frame_ms
    actual = (_ms(context.left, unit), _ms(context.right, unit))
    agree = math.isclose(actual[0], left) and math.isclose(actual[1], right) and _adds_up(model.latency, right)
    return [Check("context as configured", f"{name}: {_text(left, right)}", _text(*actual), agree)]


def configured_context(model: EncoderTask) -> tuple[float, float, str] | None:
    """Returns left and right context of the config in milliseconds, infinite if unlimited, and its name."""
    config: dict[str, Any] = model.config.get("encoder") or {}
    name = model.encoder.context_name
    chosen = (config.get("contexts") or {}).get(name) if name else None
    entry = config if chosen is None else chosen
    if "right_context_ms" not in config:
        return None
    left, right = entry.get("left_context_ms"), entry.get("right_context_ms", 0.0)
    preset = str(name if chosen is not None else model.config.get("preset") or "the encoder")
    number = re.fullmatch(r"lookahead(\d+)", preset)
    if number and float(number[1]) != right:  # the command line has another value
        preset += ", overridden"
    return math.inf if left is None else left, math.inf if right is None else right, preset


def _adds_up(report: LatencyReport, right: float) -> bool:
    return True if math.isinf(right) else math.isfinite(report.context_ms)


def _ms(frames: int | None, unit: float) -> float:
    return math.inf if frames is None else frames * unit


def _text(left: float, right: float) -> str:
    return f"left {milliseconds(left)}, right {milliseconds(right)}"
