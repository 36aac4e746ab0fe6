"""Positions: boundaries near the start, after ten seconds, past the cap of a stream and at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import torch

from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.futures import future_leak, leak_check
from streamnest.streaming.probes.reach import Reach
from streamnest.streaming.probes.sounds import noise
from streamnest.streaming.probes.subject import INFERENCE, TRAINING, TRAINING_BFLOAT16, Mode, Subject
from streamnest.streaming.probes.trace import Leak

_TEN_SECONDS, _MINUTE_MS = 10_000.0, 62_000.0
# Frame numbers at which 8-bit counters and exact integers in bfloat16 end.
_WRAPS = (64, 128, 256)
_MOST_CHUNKS = 62


def positions(model: EncoderTask, seed: int) -> list[Check]:
    """Checks that audio after a chunk changes no stage before it, at any position and utterance length."""
    double, single = Subject(model), Subject(model, torch.float32)
    frames = long_frames(single.reach)
    far = boundaries(single.reach, frames)
    some = [far[-1], far[len(far) // 2]]
    leaks = chain(
        length_leaks(single, range(1, max(10, 3 * single.reach.chunk) + 1)),
        far_leaks(single, frames, far, INFERENCE),
        far_leaks(double, frames, some, INFERENCE),
        far_leaks(single, frames, some, TRAINING),
        far_leaks(single, frames, far[-8::3], TRAINING_BFLOAT16),
        far_leaks(single, int(_MINUTE_MS / single.reach.encoder.frame_ms), [single.reach.chunk], INFERENCE),
        far_leaks(single, int(_MINUTE_MS / single.reach.encoder.frame_ms), [single.reach.chunk], TRAINING),
    )
    return [leak_check("stages at any position and length", leaks)]


def long_frames(reach: Reach) -> int:
    """Returns the frames of an utterance that is longer than the cap of a stream and than 62 chunks."""
    cap = int(STREAM_LEFT_MS / reach.encoder.frame_ms)
    return max(cap + 3 * reach.chunk, _MOST_CHUNKS * reach.chunk) + reach.chunk // 2


def boundaries(reach: Reach, frames: int) -> list[int]:
    """Returns ends of chunks, in frames, near positions at which the computation may change."""
    chunk, frame_ms = reach.chunk, reach.encoder.frame_ms
    tens = [int(_TEN_SECONDS / frame_ms), int(STREAM_LEFT_MS / frame_ms)]
    starts = [0, *_WRAPS, *(count * chunk for count in (*_WRAPS, 61)), *tens, frames - 3 * chunk]
    ends = {(start // chunk + step) * chunk for start in starts for step in (1, 2)}
    # Rounded frame numbers change with every fourth frame only.
    ends |= {(256 // chunk + step) * chunk for step in (3, 4)}
    return sorted(end for end in ends if end < frames)


def far_leaks(subject: Subject, frames: int, ends: list[int], mode: Mode) -> Iterator[Leak]:
    """Finds leaks in a long utterance that is changed after the end of each of some chunks."""
    audio = noise(frames * subject.reach.span + subject.reach.hop // 2)
    before = subject.run(audio, mode=mode)
    for end in ends:
        boundary = torch.tensor([subject.reach.boundary(end)])
        difference = future_leak(subject, mode, audio, boundary, ("shifted",), before=before)
        if difference is not None:
            seconds = frames * subject.reach.encoder.frame_ms / 1000
            yield difference.at(f"an utterance of {seconds:.0f} s, {mode.name}")


def length_leaks(subject: Subject, lengths: Iterable[int]) -> Iterator[Leak]:
    """Finds leaks in utterances of the given numbers of frames, changed after their first and last chunk."""
    reach = subject.reach
    for frames in lengths:
        audio = noise(frames * reach.span + reach.hop // 2)
        before = subject.run(audio)
        for end in {reach.chunk, (frames - 1) // reach.chunk * reach.chunk}:
            boundary = torch.tensor([min(reach.boundary(end), audio.shape[1])])
            difference = future_leak(subject, INFERENCE, audio, boundary, ("shifted",), before=before)
            if difference is not None:
                yield difference.at(f"an utterance of {frames} frames")
