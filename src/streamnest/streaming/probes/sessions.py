"""Sessions: every stream equals the whole utterance, whatever is done to it and to others, and no frame is late."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from streamnest.latency import emission_delays
from streamnest.streaming.probes.check import TOLERANCES, Check, at_most
from streamnest.streaming.probes.sounds import noise
from streamnest.streaming.probes.subject import Subject
from streamnest.streaming.session import StreamingSession
from streamnest.task import EncoderTask

_MINUTE = 62.0


def sessions(model: EncoderTask, seed: int) -> list[Check]:
    """Streams that are cut anywhere and served together, against the whole utterance."""
    cut = [_cut(Subject(model, getattr(torch, name)), name, seed) for name in TOLERANCES]
    apart = at_most("streams served together stay apart", lambda: _together(Subject(model)), TOLERANCES["float64"])
    return [*cut, apart]


def operations(model: EncoderTask, seed: int) -> list[Check]:
    """Streams that are saved, restored, reset, dropped and joined, against the whole utterance."""
    subject = Subject(model).perturb(seed)
    name = "streams saved, reset, dropped and joined"
    return [at_most(name, lambda: _operations(subject), TOLERANCES["float64"])]


def minute(model: EncoderTask, seed: int) -> list[Check]:
    """A stream of a minute, against the whole utterance with the left context that a stream keeps."""
    subject = Subject(model).perturb(seed)
    return [at_most("a stream of a minute", lambda: _minute(subject), TOLERANCES["float64"])]


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
        return self.adopt(self.session.open(), [], [])

    def adopt(self, number: int, heard: list[Tensor], frames: list[Tensor]) -> int:
        """Follows a stream that has heard and given something already."""
        self.heard[number], self.frames[number] = list(heard), list(frames)
        return number

    def push(self, pieces: dict[int, Tensor]) -> None:
        """Gives streams more samples, and checks that all frames came that are determined, and no others."""
        out = self.session.push(pieces)
        for number, piece in pieces.items():
            self.heard[number].append(piece)
            self.frames[number].append(out[number].clone())
            samples = sum(map(len, self.heard[number]))
            self.untimely |= sum(map(len, self.frames[number])) != frames_due(self.session.model, samples)

    def flush(self, numbers: Sequence[int]) -> None:
        """Ends streams."""
        for number, frames in self.session.flush(numbers).items():
            self.frames[number].append(frames.clone())

    def distance(self, number: int, model: EncoderTask, ended: bool = True) -> float:
        """Largest difference between a stream and the whole utterance; infinite if frames are missing or late."""
        audio, found = torch.cat(self.heard[number]), torch.cat(self.frames[number])
        whole = offline(model, audio)
        return math.inf if self.untimely else distance(found, whole if ended else whole[: len(found)])


def frames_due(model: EncoderTask, samples: int) -> int:
    """Frames of a stream that are determined by so many samples, as the latency report declares them."""
    encoder, frontend = model.encoder, model.frontend
    block, rate = encoder.stem.factor * frontend.hop, frontend.sample_rate / 1000
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


def _operations(subject: Subject) -> float:
    """Streams that are saved, restored elsewhere, reset, dropped and joined by others while they run."""
    model, samples = subject.model, max(12_000, 3 * subject.reach.chunk * subject.reach.block)
    audio = subject.place(noise(samples, rows=6))
    first, second = Listener(model), Listener(model)
    a, b, c = first.open(), first.open(), first.open()
    pieces = [list(row.split(samples // 7 + 13)) for row in audio]
    first.push({a: pieces[0][0], b: pieces[1][0], c: pieces[2][0]})
    first.push({a: pieces[0][1], c: pieces[2][1], b: pieces[1][1]})
    saved = first.session.save(a)
    first.session.reset(b)
    first.adopt(b, [], [])
    d = first.open()
    first.push({b: pieces[3][0], d: pieces[4][0], a: pieces[0][2]})
    restored = second.adopt(second.session.restore(saved), first.heard[a][:2], first.frames[a][:2])
    joined = second.open()
    first.session.drop(c)
    for turn in range(2, len(pieces[0])):
        second.push({joined: pieces[5][turn], restored: pieces[0][turn]})
        first.push({d: pieces[4][turn], b: pieces[3][turn]})
        if turn == 3:
            first.flush([a])
    first.flush([d, b])
    second.flush([restored, joined])
    ended = [first.distance(number, model) for number in (a, b, d)]
    ended += [second.distance(number, model) for number in (restored, joined)]
    return max(*ended, first.distance(c, model, ended=False), _short(model, audio[0]))


def _short(model: EncoderTask, audio: Tensor) -> float:
    """Streams that end before their first frame, and one that gets single samples and nothing."""
    tiny = [[audio[:0]], [audio[:1]], [audio[:159], audio[:0]], list(audio[:170].split(1)), [audio[:1_003]]]
    return streamed(model, tiny)


def _minute(subject: Subject) -> float:
    """A stream of a minute, against the whole with the left context to which a stream is limited."""
    model, listener = subject.model, Listener(subject.model)
    rate, encoder = subject.reach.frontend.sample_rate, subject.model.encoder
    audio = subject.place(noise(int(_MINUTE * rate))[0])
    number = listener.open()
    for piece in audio.split(int(0.93 * rate)):
        listener.push({number: piece})
    listener.flush([number])
    unlimited = encoder.context
    encoder.context = replace(unlimited, left=encoder.left_frames())
    try:
        return listener.distance(number, model)
    finally:
        encoder.context = unlimited
