"""Sessions: every stream equals the whole utterance, whatever is done to it and to others, and no frame is late."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from streamnest.encoder_task import EncoderTask
from streamnest.latency import emission_delays
from streamnest.streaming.probes.check import TOLERANCES, Check, at_most
from streamnest.streaming.probes.places import far_leaks
from streamnest.streaming.probes.reach import Reach
from streamnest.streaming.probes.sounds import noise
from streamnest.streaming.probes.subject import IN_USE, Subject
from streamnest.streaming.session import StreamingSession

# Seconds of a long stream, and the part of it that comes at once; the rest comes one chunk at a time.
_MINUTE, _AT_ONCE = 62.0, (40.0, 52.0)
# Of the random operations: their number, the streams of a session, and seconds of a stream, below the cap.
_MOVES, _MOST_STREAMS, _LONGEST = 120, 5, 10.0


def sessions(model: EncoderTask, seed: int) -> list[Check]:
    """Streams that are cut anywhere and served together, against the whole utterance."""
    cut = [_cut(Subject(model, getattr(torch, name)), name, seed) for name in TOLERANCES]
    apart = at_most("streams served together stay apart", lambda: _together(Subject(model)), TOLERANCES["float64"])
    return [*cut, apart]


def operations(model: EncoderTask, seed: int) -> list[Check]:
    """Streams that are saved, restored, reset, dropped and joined, against the whole utterance."""
    subject = Subject(model).perturb(seed)
    name = "streams saved, reset, dropped and joined"
    return [at_most(name, lambda: _operations(subject, seed), TOLERANCES["float64"])]


def minute(model: EncoderTask, seed: int) -> list[Check]:
    """A stream of a minute, against the whole utterance with the left context that a stream keeps."""
    subject = Subject(model).perturb(seed)
    check = at_most("a stream of a minute", lambda: distance(*_minute(subject)), TOLERANCES["float64"])
    return [check if check.passed else replace(check, measured=check.measured + _named(subject))]


class Listener:
    """A session that keeps what its streams heard and gave, and finds frames that come late or early.

    Args:
        model: copy to stream with.
        max_left_ms: cap of an unlimited left context.
    """

    def __init__(self, model: EncoderTask, max_left_ms: float | None = None) -> None:
        self.session = StreamingSession(model) if max_left_ms is None else StreamingSession(model, max_left_ms)
        self.heard: dict[int, list[Tensor]] = {}
        self.frames: dict[int, list[Tensor]] = {}
        self.untimely = False

    def open(self) -> int:
        """Begins a stream."""
        return self.adopt(self.session.open())

    def adopt(self, number: int, heard: Sequence[Tensor] = (), frames: Sequence[Tensor] = ()) -> int:
        """Follows a stream, which may have heard and given something already."""
        none = self.session.model.frontend.window.new_zeros(0)
        self.heard[number] = list(heard) or [none]
        self.frames[number] = list(frames) or [none.new_zeros(0, self.session.model.encoder.d_model)]
        return number

    def push(self, pieces: dict[int, Tensor]) -> None:
        """Gives streams more samples, and checks that all frames came that are determined, and no others."""
        out = self.session.push(pieces)
        for number, piece in pieces.items():
            self.heard[number].append(piece)
            self.frames[number].append(out[number].clone())
            due = frames_due(self.session.model, self.samples(number))
            self.untimely |= sum(map(len, self.frames[number])) != due

    def samples(self, number: int) -> int:
        """Samples that a stream has heard."""
        return sum(map(len, self.heard[number]))

    def seconds(self, number: int) -> float:
        """Length of what a stream has heard."""
        return self.samples(number) / self.session.sample_rate

    def flush(self, numbers: Sequence[int]) -> None:
        """Ends streams."""
        for number, frames in self.session.flush(numbers).items():
            self.frames[number].append(frames.clone())

    def end(self, number: int, drop: bool = False) -> float:
        """Ends a stream, with its last frames or without; returns its `distance` and forgets it."""
        if drop:
            self.session.drop(number)
        else:
            self.flush([number])
        distance = self.distance(number, self.session.model, ended=not drop)
        del self.heard[number], self.frames[number]
        return distance

    def reset(self, number: int) -> None:
        """Begins a stream anew."""
        self.session.reset(number)
        self.adopt(number)

    def distance(self, number: int, model: EncoderTask, ended: bool = True) -> float:
        """Largest difference between a stream and the whole utterance; infinite if frames are missing or late."""
        audio, found = torch.cat(self.heard[number]), torch.cat(self.frames[number])
        whole = offline(model, audio)
        return math.inf if self.untimely else distance(found, whole if ended else whole[: len(found)])


def frames_due(model: EncoderTask, samples: int) -> int:
    """Frames of a stream that are determined by so many samples, as the latency report declares them."""
    encoder, frontend = model.encoder, model.frontend
    block, rate = encoder.subsampling.factor * frontend.hop, frontend.sample_rate / 1000
    delays = [round(delay * rate) for delay in emission_delays(encoder, frontend)]
    # The frame of block n comes `delays[phase]` samples after the block begins.
    frames = 0
    while (frames - encoder.target_shift) * block + delays[frames % len(delays)] <= samples:
        frames += 1
    return frames


@torch.no_grad()
def offline(model: EncoderTask, audio: Tensor) -> Tensor:
    """Frames `(T', d)` of a whole utterance `(N,)`."""
    encoded, frames = model.eval()(audio[None], torch.tensor([len(audio)], device=audio.device))
    return encoded[0, : int(frames)]


def distance(one: Tensor, other: Tensor) -> float:
    """Largest difference; infinite if the numbers of frames differ or values are not numbers."""
    if one.shape != other.shape:
        return math.inf
    largest = float((one - other).abs().max()) if one.numel() else 0.0
    return math.inf if math.isnan(largest) else largest


def streamed(model: EncoderTask, rows: Sequence[Sequence[Tensor]]) -> float:
    """Largest difference of streams that are pushed in turns, from the pieces of each."""
    listener = Listener(model)
    numbers = [listener.open() for _ in rows]
    for turn in range(max(map(len, rows))):
        listener.push({n: row[turn] for n, row in zip(numbers, rows, strict=True) if turn < len(row)})
    listener.flush(numbers)
    return max(listener.distance(number, model) for number in numbers)


def _cut(subject: Subject, precision: str, seed: int) -> Check:
    """Streams of one utterance that is cut at random, long enough for a limited left context to forget."""
    encoder, reach = subject.model.encoder, subject.reach
    forgets = (encoder.context.left or 0) + 4 * reach.chunk
    audio = subject.place(noise(max(30_000, forgets * reach.block))[0])
    generator = torch.Generator().manual_seed(seed)
    cuts = [torch.randint(0, len(audio), (n,), generator=generator).sort().values.tolist() for n in (0, 1, 7, 60)]
    return at_most(
        f"chunk == full, {precision}",
        lambda: max(streamed(subject.model, [torch.tensor_split(audio, at)]) for at in cuts),
        TOLERANCES[precision],
    )


def _together(subject: Subject) -> float:
    """Several streams of different lengths that begin one after the other."""
    audio = [row[: 20_000 - 4_321 * n] for n, row in enumerate(subject.place(noise(20_000, rows=4)))]
    pieces = [[row.new_zeros(0)] * n + list(row.split(3_000)) for n, row in enumerate(audio)]
    return streamed(subject.model, pieces)


def _operations(subject: Subject, seed: int) -> float:
    """Streams of two sessions that are opened, pushed, saved, restored, reset, dropped and ended in a random order."""
    sessions = Listener(subject.model), Listener(subject.model)
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> int:
        return int(torch.randint(count, (1,), generator=generator))

    distances = [_short(subject.model, subject.place(noise(1_003)[0]))]
    for _ in range(_MOVES):
        here, there = sessions[draw(2)], sessions[draw(2)]
        if not here.heard or (len(here.heard) < _MOST_STREAMS and draw(4) == 0):
            here.open()
        number = list(here.heard)[draw(len(here.heard))]
        end = 0 if here.seconds(number) >= _LONGEST else draw(16)
        if end < 2:
            distances.append(here.end(number, drop=end == 1))
        elif end < 4:
            here.reset(number)
        elif end < 7 and len(there.heard) < _MOST_STREAMS:
            there.adopt(there.session.restore(here.session.save(number)), here.heard[number], here.frames[number])
        else:
            told = [n for n in here.heard if draw(3) and here.seconds(n) < _LONGEST]
            here.push({n: subject.place(noise(_piece(subject.reach, draw), seed=draw(10_000))[0]) for n in told})
    return max(distances + [here.end(number) for here in sessions for number in list(here.heard)])


def _piece(reach: Reach, draw: Callable[[int], int]) -> int:
    """Samples to push: none, a few, a part of a chunk, or several chunks."""
    chunk = reach.chunk * reach.block
    return draw(min((1, 200, chunk, 4 * chunk)[min(draw(6), 3)], int(_LONGEST * reach.frontend.sample_rate / 2)))


def _short(model: EncoderTask, audio: Tensor) -> float:
    """Streams that end before their first frame, and one that gets single samples and nothing."""
    tiny = [[audio[:0]], [audio[:1]], [audio[:159], audio[:0]], list(audio[:170].split(1)), [audio[:1_003]]]
    return streamed(model, tiny)


def _minute(subject: Subject) -> tuple[Tensor, Tensor]:
    """Frames of a stream of a minute, and of the whole with the left context to which a stream is limited."""
    model, listener = subject.model, Listener(subject.model)
    rate, encoder = subject.reach.frontend.sample_rate, subject.model.encoder
    audio = subject.place(noise(int(_MINUTE * rate))[0])
    number, chunk = listener.open(), listener.session.chunk_samples
    first, second = (int(seconds * rate) for seconds in _AT_ONCE)
    for piece in (*audio[:first].split(chunk), audio[first:second], *audio[second:].split(chunk)):
        listener.push({number: piece})
    listener.flush([number])
    found = torch.cat(listener.frames[number])
    unlimited = encoder.context
    encoder.context = replace(unlimited, left=encoder.left_frames())
    try:
        whole = offline(model, audio)
    finally:
        encoder.context = unlimited
    return (found[:0] if listener.untimely else found), whole


def _named(subject: Subject) -> str:
    """The stage that hears later audio at the first frame where a stream of a minute differs, if one does."""
    found, whole = _minute(subject)
    reach = subject.reach
    differ = (found - whole).abs().amax(1) > TOLERANCES["float64"] if found.shape == whole.shape else found.new_ones(1)
    if not differ.any():
        return ""
    frame = int(differ.nonzero()[0])
    end = (frame // reach.chunk + 1) * reach.chunk
    leak = next(far_leaks(subject, len(whole), [end], IN_USE), None)
    return f" from frame {frame} on" + (f": the {leak.stage.label} hears later audio" if leak else "")
