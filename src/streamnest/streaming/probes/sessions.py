"""Sessions: streams equal the offline output whatever happens to them and to others, and no frame is late."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from streamnest.encoder_task import EncoderTask
from streamnest.latency import emission_delays
from streamnest.streaming.probes.check import TOLERANCES, Check, at_most
from streamnest.streaming.probes.positions import far_leaks
from streamnest.streaming.probes.reach import Reach
from streamnest.streaming.probes.sounds import noise
from streamnest.streaming.probes.subject import INFERENCE, Subject
from streamnest.streaming.session import StreamingSession

# Seconds of a long stream, and the part of it that is pushed at once; the rest is pushed chunk by chunk.
_MINUTE, _AT_ONCE = 62.0, (40.0, 52.0)
# Random operations: their number, streams of a session at most, and seconds of a stream at most, below the cap.
_MOVES, _MOST_STREAMS, _LONGEST = 120, 5, 10.0


def sessions(model: EncoderTask, seed: int) -> list[Check]:
    """Compares streams that are split anywhere and batched together with the offline output."""
    cut = [_cut(Subject(model, getattr(torch, name)), name, seed) for name in TOLERANCES]
    apart = at_most("independence of concurrent streams", lambda: _together(Subject(model)), TOLERANCES["float64"])
    return [*cut, apart]


def operations(model: EncoderTask, seed: int) -> list[Check]:
    """Compares streams that are saved, restored, reset, dropped and batched with the offline output."""
    subject = Subject(model).perturb(seed)
    name = "streams saved, restored, reset and dropped"
    return [at_most(name, lambda: _operations(subject, seed), TOLERANCES["float64"])]


def minute(model: EncoderTask, seed: int) -> list[Check]:
    """Compares a stream of a minute with the offline output for the left context that a stream keeps."""
    subject = Subject(model).perturb(seed)
    check = at_most("a stream of a minute", lambda: distance(*_minute(subject)), TOLERANCES["float64"])
    return [check if check.passed else replace(check, measured=check.measured + _cause(subject))]


class RecordedSession:
    """A session that records the samples and frames of its streams, and detects late and early frames.

    Args:
        model: model to stream.
        max_left_ms: cap of an unlimited left context.
    """

    def __init__(self, model: EncoderTask, max_left_ms: float | None = None) -> None:
        self.session = StreamingSession(model) if max_left_ms is None else StreamingSession(model, max_left_ms)
        self.audio: dict[int, list[Tensor]] = {}
        self.frames: dict[int, list[Tensor]] = {}
        self.untimely = False

    def open(self) -> int:
        """Opens a stream."""
        return self.adopt(self.session.open())

    def adopt(self, number: int, audio: Sequence[Tensor] = (), frames: Sequence[Tensor] = ()) -> int:
        """Records a stream, which may have received samples and emitted frames already."""
        empty = self.session.model.frontend.window.new_zeros(0)
        self.audio[number] = list(audio) or [empty]
        self.frames[number] = list(frames) or [empty.new_zeros(0, self.session.model.encoder.d_model)]
        return number

    def push(self, pieces: dict[int, Tensor]) -> None:
        """Pushes samples, and checks that exactly the frames that are final were emitted."""
        out = self.session.push(pieces)
        for number, piece in pieces.items():
            self.audio[number].append(piece)
            self.frames[number].append(out[number].clone())
            due = frames_due(self.session.model, self.samples(number))
            self.untimely |= sum(map(len, self.frames[number])) != due

    def samples(self, number: int) -> int:
        """Number of samples that a stream has received."""
        return sum(map(len, self.audio[number]))

    def seconds(self, number: int) -> float:
        """Duration of the audio that a stream has received."""
        return self.samples(number) / self.session.sample_rate

    def flush(self, numbers: Sequence[int]) -> None:
        """Ends streams."""
        for number, frames in self.session.flush(numbers).items():
            self.frames[number].append(frames.clone())

    def end(self, number: int, drop: bool = False) -> float:
        """Ends or drops a stream; returns its `distance` and removes its record."""
        if drop:
            self.session.drop(number)
        else:
            self.flush([number])
        distance = self.distance(number, self.session.model, ended=not drop)
        del self.audio[number], self.frames[number]
        return distance

    def reset(self, number: int) -> None:
        """Restarts a stream."""
        self.session.reset(number)
        self.adopt(number)

    def distance(self, number: int, model: EncoderTask, ended: bool = True) -> float:
        """Largest difference between a stream and the offline output; infinite if frames are missing or untimely."""
        audio, streamed = torch.cat(self.audio[number]), torch.cat(self.frames[number])
        expected = offline(model, audio)
        return math.inf if self.untimely else distance(streamed, expected if ended else expected[: len(streamed)])


def frames_due(model: EncoderTask, samples: int) -> int:
    """Number of frames that are final after `samples` samples, by the declared latency."""
    encoder, frontend = model.encoder, model.frontend
    span, rate = encoder.subsampling.factor * frontend.hop, frontend.sample_rate / 1000
    delays = [round(delay * rate) for delay in emission_delays(encoder, frontend)]
    # The frame of target span n is emitted `delays[phase]` samples after the start of the span.
    frames = 0
    while (frames - encoder.target_shift) * span + delays[frames % len(delays)] <= samples:
        frames += 1
    return frames


@torch.no_grad()
def offline(model: EncoderTask, audio: Tensor) -> Tensor:
    """Computes the offline frames `(T', d)` of an utterance `(N,)`."""
    encoded, frames = model.eval()(audio[None], torch.tensor([len(audio)], device=audio.device))
    return encoded[0, : int(frames)]


def distance(one: Tensor, other: Tensor) -> float:
    """Largest difference; infinite if the numbers of frames differ or values are NaN."""
    if one.shape != other.shape:
        return math.inf
    largest = float((one - other).abs().max()) if one.numel() else 0.0
    return math.inf if math.isnan(largest) else largest


def streamed(model: EncoderTask, rows: Sequence[Sequence[Tensor]]) -> float:
    """Streams the pieces of each row in turns; returns the largest difference from the offline output."""
    session = RecordedSession(model)
    numbers = [session.open() for _ in rows]
    for turn in range(max(map(len, rows))):
        session.push({n: row[turn] for n, row in zip(numbers, rows, strict=True) if turn < len(row)})
    session.flush(numbers)
    return max(session.distance(number, model) for number in numbers)


def _cut(subject: Subject, precision: str, seed: int) -> Check:
    """Checks streams of an utterance that is split at random and longer than a limited left context."""
    encoder, reach = subject.model.encoder, subject.reach
    longer = (encoder.context.left or 0) + 4 * reach.chunk
    audio = subject.place(noise(max(30_000, longer * reach.span))[0])
    generator = torch.Generator().manual_seed(seed)
    cuts = [torch.randint(0, len(audio), (n,), generator=generator).sort().values.tolist() for n in (0, 1, 7, 60)]
    return at_most(
        f"streamed equals offline, {precision}",
        lambda: max(streamed(subject.model, [torch.tensor_split(audio, at)]) for at in cuts),
        TOLERANCES[precision],
    )


def _together(subject: Subject) -> float:
    """Compares several streams of different lengths that start one after the other."""
    audio = [row[: 20_000 - 4_321 * n] for n, row in enumerate(subject.place(noise(20_000, rows=4)))]
    pieces = [[row.new_zeros(0)] * n + list(row.split(3_000)) for n, row in enumerate(audio)]
    return streamed(subject.model, pieces)


def _operations(subject: Subject, seed: int) -> float:
    """Opens, pushes, saves, restores, resets, drops and ends streams of two sessions in random order."""
    sessions = RecordedSession(subject.model), RecordedSession(subject.model)
    generator = torch.Generator().manual_seed(seed)

    def sample(count: int) -> int:
        return int(torch.randint(count, (1,), generator=generator))

    distances = [_short(subject.model, subject.place(noise(1_003)[0]))]
    for _ in range(_MOVES):
        here, there = sessions[sample(2)], sessions[sample(2)]
        if not here.audio or (len(here.audio) < _MOST_STREAMS and sample(4) == 0):
            here.open()
        number = list(here.audio)[sample(len(here.audio))]
        end = 0 if here.seconds(number) >= _LONGEST else sample(16)
        if end < 2:
            distances.append(here.end(number, drop=end == 1))
        elif end < 4:
            here.reset(number)
        elif end < 7 and len(there.audio) < _MOST_STREAMS:
            there.adopt(there.session.restore(here.session.save(number)), here.audio[number], here.frames[number])
        else:
            chosen = [n for n in here.audio if sample(3) and here.seconds(n) < _LONGEST]
            here.push({n: subject.place(noise(_piece(subject.reach, sample), seed=sample(10_000))[0]) for n in chosen})
    return max(distances + [here.end(number) for here in sessions for number in list(here.audio)])


def _piece(reach: Reach, sample: Callable[[int], int]) -> int:
    """Samples the length of a piece: nothing, a few samples, a part of a chunk, or several chunks."""
    chunk = reach.chunk * reach.span
    return sample(min((1, 200, chunk, 4 * chunk)[min(sample(6), 3)], int(_LONGEST * reach.frontend.sample_rate / 2)))


def _short(model: EncoderTask, audio: Tensor) -> float:
    """Compares streams that end before their first frame, and streams of empty and single-sample pieces."""
    tiny = [[audio[:0]], [audio[:1]], [audio[:159], audio[:0]], list(audio[:170].split(1)), [audio[:1_003]]]
    return streamed(model, tiny)


def _minute(subject: Subject) -> tuple[Tensor, Tensor]:
    """Returns the frames of a stream of a minute, and the offline frames for the left context of a stream."""
    model, recorded = subject.model, RecordedSession(subject.model)
    rate, encoder = subject.reach.frontend.sample_rate, subject.model.encoder
    audio = subject.place(noise(int(_MINUTE * rate))[0])
    number, chunk = recorded.open(), recorded.session.chunk_samples
    first, second = (int(seconds * rate) for seconds in _AT_ONCE)
    for piece in (*audio[:first].split(chunk), audio[first:second], *audio[second:].split(chunk)):
        recorded.push({number: piece})
    recorded.flush([number])
    streamed = torch.cat(recorded.frames[number])
    unlimited = encoder.context
    encoder.context = replace(unlimited, left=encoder.left_frames())
    try:
        expected = offline(model, audio)
    finally:
        encoder.context = unlimited
    return (streamed[:0] if recorded.untimely else streamed), expected


def _cause(subject: Subject) -> str:
    """Finds the stage that depends on later audio at the first frame where a stream of a minute differs."""
    streamed, expected = _minute(subject)
    reach = subject.reach
    if streamed.shape == expected.shape:
        differ = (streamed - expected).abs().amax(1) > TOLERANCES["float64"]
    else:
        differ = streamed.new_ones(1)
    if not differ.any():
        return ""
    frame = int(differ.nonzero()[0])
    end = (frame // reach.chunk + 1) * reach.chunk
    leak = next(far_leaks(subject, len(expected), [end], INFERENCE), None)
    return f" from frame {frame} on" + (f": {leak.stage.label} depends on later audio" if leak else "")
