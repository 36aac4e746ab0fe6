"""Simulation of streaming on recorded audio: latency and compute cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamnest.callbacks.throughput import peak_memory_gb
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.streaming.session import StreamingSession
from streamnest.streaming.session_base import Session
from streamnest.streaming.step import Rows


@dataclass(frozen=True)
class StreamResult:
    """Latency and compute cost of streaming one utterance.

    Attributes:
        seconds: duration of the audio.
        num_frames: encoder frames that were emitted.
        first_frame_audio_ms: audio that had arrived when the first frame was emitted.
        compute_p50_ms: compute time of a piece that emits frames, median.
        compute_p95_ms: the same, 95th percentile.
        compute_p99_ms: the same, 99th percentile.
        first_frame_ms: compute time until the first frame, without waiting for audio.
        real_time_factor: compute time divided by audio duration.
        peak_memory_gb: peak memory of the accelerator, or of the whole process on a CPU.
        listener_mean_ms: with `realtime`, time from the arrival of a sample to the emission of its frame, mean.
        listener_worst_ms: the same, worst sample.
        windowed: True if the stream has outgrown the cap of an unlimited left context.
    """

    seconds: float
    num_frames: int
    first_frame_audio_ms: float
    compute_p50_ms: float
    compute_p95_ms: float
    compute_p99_ms: float
    first_frame_ms: float
    real_time_factor: float
    peak_memory_gb: float
    listener_mean_ms: float | None
    listener_worst_ms: float | None
    windowed: bool


def simulate_streaming_inference(
    model: EncoderTask | Session[Any],
    audio: Tensor,
    chunk_size: float | None = None,
    realtime: bool = False,
    progress: Callable[[float], None] | None = None,
) -> tuple[Tensor, StreamResult]:
    """Streams an utterance in pieces.

    Args:
        model: model that can stream, or a session.
        audio: `(N,)` at the model's rate.
        chunk_size: seconds of audio in each piece, any positive number; None is one step of the model at a time, so
            that the first frame is emitted after the algorithmic latency.
        realtime: pace the pieces as a microphone would, and measure the time from each sample to its frame.
        progress: called with the seconds of audio that have arrived, after each piece.

    Returns:
        Frames `(T', d)`, and latency and cost.
    """
    if chunk_size is not None and chunk_size <= 0:
        raise UserError(f"chunk_size={chunk_size}: it must be a number of seconds above 0")
    session: Session[Any] = StreamingSession(model) if isinstance(model, EncoderTask) else model
    rate, device = session.sample_rate, session.device
    number, frames = session.open(), Rows(round(1000 * len(audio) / rate / session.frame_ms) + 2)
    busy, waits = list[tuple[float, int, float]](), list[float]()
    start, num_samples, arrived = time.perf_counter(), 0, 0.0
    for piece, last in _pieces(session, audio, chunk_size):
        num_samples += len(piece)
        arrived = num_samples / rate
        if realtime:
            time.sleep(max(0.0, start + arrived - time.perf_counter()))
        started = time.perf_counter()
        out = session.push({number: piece.to(device)})[number]
        windowed = session.windowed(number)
        if last:
            out = torch.cat([out, session.flush([number])[number]])
        torch.get_device_module(device).synchronize()  # other devices than the CPU may still be computing
        ended = time.perf_counter()
        if realtime:
            waits += _waits(session, 1000 * (ended - start), range(len(frames), len(frames) + len(out)))
        frames.append(out)
        busy.append((ended - started, len(out), arrived))
        if progress:
            progress(arrived)
    return frames.joined, _result(session, audio, busy, waits, windowed)


def emission_samples(session: Session[Any], audio: Tensor) -> list[int]:
    """Measures after how many samples each frame of a stream is emitted.

    One stream receives pieces of 10 ms. Only the pieces with which it emits frames are then pushed to a second stream
    sample by sample.

    Args:
        session: session to measure; the two streams are flushed.
        audio: `(N,)` at the model's rate.
    """
    coarse, fine = session.open(), session.open()
    times, num_samples = list[int](), 0
    for piece in audio.to(session.device).split(max(1, round(0.01 * session.sample_rate))):
        emits = len(session.push({coarse: piece})[coarse])
        for part in piece.split(1) if emits else (piece,):
            num_samples += len(part)
            times += [num_samples] * len(session.push({fine: part})[fine])
    session.flush([coarse, fine])
    return times


def _waits(session: Session[Any], now_ms: float, frames: range) -> list[float]:
    """Milliseconds from the first sample of the target span of each frame until now.

    The first frame of a shifted subsampling has no target span.
    """
    spans = [frame - session.target_shift for frame in frames]
    return [now_ms - span * session.frame_ms for span in spans if span >= 0]


def _pieces(session: Session[Any], audio: Tensor, chunk_size: float | None) -> Iterator[tuple[Tensor, bool]]:
    """Splits audio; yields each piece, and whether it is the last one."""
    size = session.chunk_samples if chunk_size is None else max(1, round(chunk_size * session.sample_rate))
    first = session.first_samples if chunk_size is None else size
    first = first if first > 0 else first % size or size
    yield audio[:first], first >= len(audio)
    for start in range(first, len(audio), size):
        yield audio[start : start + size], start + size >= len(audio)


def _result(
    session: Session[Any], audio: Tensor, busy: list[tuple[float, int, float]], waits: list[float], windowed: bool
) -> StreamResult:
    emitting = [1000 * spent for spent, count, _ in busy if count] or [0.0]
    p50, p95, p99 = np.percentile(emitting, [50, 95, 99]).tolist()
    first = next((index for index, (_, count, _) in enumerate(busy) if count), len(busy) - 1)
    seconds = len(audio) / session.sample_rate
    return StreamResult(
        seconds=seconds,
        num_frames=sum(count for _, count, _ in busy),
        first_frame_audio_ms=1000 * busy[first][2],
        compute_p50_ms=p50,
        compute_p95_ms=p95,
        compute_p99_ms=p99,
        first_frame_ms=1000 * sum(spent for spent, _, _ in busy[: first + 1]),
        real_time_factor=sum(spent for spent, _, _ in busy) / max(seconds, 1e-9),
        peak_memory_gb=peak_memory_gb(session.device),
        # The samples of a target span arrive during one stride: half a stride later on average than the first.
        listener_mean_ms=float(np.mean(waits)) - session.frame_ms / 2 if waits else None,
        listener_worst_ms=max(waits) if waits else None,
        windowed=windowed,
    )
