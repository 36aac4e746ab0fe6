"""A checkpoint on recorded audio as if it arrived live: what it costs, and whether it equals offline."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from streamnest.callbacks.throughput import peak_memory_gb
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.streaming.session import StreamingSession

TOLERANCE = 1e-5


class Session(Protocol):
    """What streams audio: `StreamingSession`, or `OnnxSession` of an exported model."""

    sample_rate: int
    chunk_samples: int
    frame_ms: float
    target_shift: int

    @property
    def cap_frames(self) -> int | None:
        """Frames of a stream that surely equal offline ones, where the left context is unlimited; None is all."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def open(self) -> int:
        """Begins a stream."""

    def push(self, pieces: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Hears more of some streams."""

    def flush(self, numbers: Sequence[int]) -> dict[int, Tensor]:
        """Ends streams."""

    def windowed(self, number: int) -> bool:
        """Whether a stream outgrew the cap of an unlimited left context."""


@dataclass(frozen=True)
class StreamResult:
    """What streaming one utterance cost.

    Attributes:
        seconds: of audio.
        num_frames: encoder frames that came out.
        first_frame_audio_ms: audio that had to arrive before the first frame.
        compute_p50_ms: of one chunk, `compute_p95_ms` and `compute_p99_ms` alike.
        compute_p95_ms: see above.
        compute_p99_ms: see above.
        first_frame_ms: compute time until the first frame, audio not waited for.
        real_time_factor: compute time over audio time.
        peak_memory_gb: of the accelerator, or of the whole process on a CPU.
        listener_mean_ms: with pacing, from the arrival of a sample to the frame that stands for it; mean over samples.
        listener_worst_ms: the same, worst sample.
        windowed: whether the stream outgrew the cap of an unlimited left context.
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


@dataclass(frozen=True)
class Comparison:
    """Streamed against offline, per frame.

    Attributes:
        max_difference: largest difference of any channel of any frame; infinite where the numbers of frames differ.
        mean_difference: mean over frames of the largest difference in each.
        first_differing_frame: first frame over the tolerance; None is none.
        per_frame: `(frames,)` largest difference in each frame.
        tolerance: what is allowed.
        cap_frames: from this frame on a stream sees a window of an unlimited past, and may differ; None is never.
    """

    max_difference: float
    mean_difference: float
    first_differing_frame: int | None
    per_frame: list[float]
    tolerance: float
    cap_frames: int | None = None

    @property
    def equal(self) -> bool:
        """Whether all frames that must be are within the tolerance, and all are numbers."""
        first, cap = self.first_differing_frame, self.cap_frames
        return math.isfinite(self.max_difference) and (first is None or (cap is not None and first >= cap))


def simulate_streaming_inference(
    model: EncoderTask | Session, audio: Tensor, chunk_size: float = 0.32, realtime: bool = False
) -> tuple[Tensor, StreamResult]:
    """Streams an utterance in pieces.

    Args:
        model: that can stream, or a session of one.
        audio: `(N,)` at the model's rate.
        chunk_size: seconds in a piece; it need not be a whole number of anything.
        realtime: let each piece arrive when it would have, and measure what a listener waits.

    Returns:
        Frames `(T', d)` and what they cost.
    """
    if chunk_size <= 0:
        raise UserError(f"chunk_size={chunk_size}: give seconds above 0")
    session: Session = StreamingSession(model) if isinstance(model, EncoderTask) else model
    rate, device = session.sample_rate, session.device
    number, frames = session.open(), list[Tensor]()
    busy, waits = list[tuple[float, int, float]](), list[float]()
    begin, heard, arrived = time.perf_counter(), 0, 0.0
    for piece, last in _pieces(audio, max(1, round(chunk_size * rate))):
        heard += len(piece)
        arrived = heard / rate
        if realtime:
            time.sleep(max(0.0, begin + arrived - time.perf_counter()))
        started = time.perf_counter()
        out = session.push({number: piece.to(device)})[number]
        windowed = session.windowed(number)
        if last:
            out = torch.cat([out, session.flush([number])[number]])
        torch.get_device_module(device).synchronize()  # other devices than the CPU may still be computing
        ended = time.perf_counter()
        done = sum(map(len, frames))
        waits += _waits(session, 1000 * (ended - begin), range(done, done + len(out)))
        frames.append(out)
        busy.append((ended - started, len(out), arrived))
    return torch.cat(frames), _result(session, audio, busy, waits if realtime else [], windowed)


def emission_samples(session: Session, audio: Tensor) -> list[int]:
    """Measures after how many samples each frame of a stream is emitted.

    A first stream hears one step of the frame clock after the other; a second one follows it, sample by sample when
    frames are about to come.

    Args:
        session: session whose streams are measured; both are flushed.
        audio: `(N,)` at the model's rate.
    """
    scout, follower = session.open(), session.open()
    times, heard = list[int](), 0
    for piece in audio.to(session.device).split(max(1, round(0.01 * session.sample_rate))):
        due = len(session.push({scout: piece})[scout])
        for part in piece.split(1) if due else (piece,):
            heard += len(part)
            times += [heard] * len(session.push({follower: part})[follower])
    session.flush([scout, follower])
    return times


def compare_streaming_vs_offline(
    model: EncoderTask,
    audio: Tensor,
    chunk_size: float = 0.32,
    tolerance: float = TOLERANCE,
    session: Session | None = None,
) -> Comparison:
    """Streams an utterance and holds each frame against the offline forward of the whole.

    Args:
        model: computes the offline frames, and the streamed ones unless a session is given.
        audio: `(N,)` at the model's rate.
        chunk_size: seconds in a piece.
        tolerance: largest difference allowed.
        session: streams in place of the model, for example an exported one.
    """
    session = session or StreamingSession(model)
    streamed, _ = simulate_streaming_inference(session, audio, chunk_size)
    with torch.no_grad():
        encoded, count = model(audio[None].to(streamed.device), torch.tensor([len(audio)], device=streamed.device))
    offline = encoded[0, : int(count)]
    if offline.shape != streamed.shape:
        return Comparison(math.inf, math.inf, min(len(offline), len(streamed)), [], tolerance)
    difference = (offline - streamed).abs().amax(-1) if len(offline) else offline.new_zeros(0)
    over = (~(difference <= tolerance)).nonzero()
    return Comparison(
        max_difference=float(difference.max()) if len(difference) else 0.0,
        mean_difference=float(difference.mean()) if len(difference) else 0.0,
        first_differing_frame=int(over[0]) if len(over) else None,
        per_frame=difference.tolist(),
        tolerance=tolerance,
        cap_frames=session.cap_frames,
    )


def as_dict(result: StreamResult | Comparison) -> dict[str, Any]:
    """For JSON; infinite figures are null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(result).items()}


def _waits(session: Session, now_ms: float, frames: range) -> list[float]:
    """From the first sample of the blocks that frames stand for until now, milliseconds.

    The first frame of a shifted stem stands for no block.
    """
    blocks = [frame - session.target_shift for frame in frames]
    return [now_ms - block * session.frame_ms for block in blocks if block >= 0]


def _pieces(audio: Tensor, size: int) -> Iterator[tuple[Tensor, bool]]:
    pieces = audio.split(size) if len(audio) else (audio,)
    for index, piece in enumerate(pieces):
        yield piece, index == len(pieces) - 1


def _result(
    session: Session, audio: Tensor, busy: list[tuple[float, int, float]], waits: list[float], windowed: bool
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
        # A frame stands for the samples of its block, which arrive over one stride.
        listener_mean_ms=float(np.mean(waits)) - session.frame_ms / 2 if waits else None,
        listener_worst_ms=max(waits) if waits else None,
        windowed=windowed,
    )
