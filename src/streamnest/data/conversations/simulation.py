"""Simulated conversations: who speaks when, drawn anew from a key, on utterances of single speakers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamnest.data.audio import SAMPLING_RATE, Samples
from streamnest.data.augment.ranges import draw_integer, draw_uniform
from streamnest.data.labels import Label
from streamnest.errors import UserError
from streamnest.randomness import numpy_generator

_STREAM = 0xD1A


class Turn(NamedTuple):
    """A stretch in which somebody speaks, in seconds."""

    speaker: str
    start: float
    end: float


@dataclass(frozen=True)
class ConversationLabel(Label):
    """Who speaks when.

    Attributes:
        turns: in the order of their starts.
        real: whether it is a recording and not simulated.
    """

    turns: tuple[Turn, ...] = ()
    real: bool = False


@dataclass(frozen=True)
class Utterance:
    """What one speaker says.

    Attributes:
        audio: `(N,)`.
        spans: where in it somebody is heard, in seconds.
    """

    audio: Samples
    spans: Sequence[tuple[float, float]]


class Conversation(NamedTuple):
    """A track `(N,)` for each speaker, at his level, and the turns in the order of their starts."""

    tracks: dict[str, NDArray[np.float32]]
    turns: tuple[Turn, ...]


# Utterances of a speaker at random, None where it cannot be read.
Say = Callable[[np.random.Generator, str], Utterance | None]


class ConversationSimulator:
    """Turns follow each other after a pause or before the last one has ended; nobody speaks over himself.

    Lhotse mixes cuts as well, and simulates meetings from statistics of real ones; here every draw must depend on a
    key alone, and utterances come from a cache.

    Args:
        seconds: each conversation has.
        speakers: range of their number.
        turn: range of the longest a turn may take, in seconds; longer utterances are cut off.
        pause: range between turns, in seconds; also before the first.
        overlap_prob: share of changes of speaker in which the next one begins before the last has ended.
        overlap: range of how much earlier, in seconds; not before the turn that it interrupts.
        stay_prob: share of turns after which the same speaker goes on.
        level_db: range of the level of a speaker's utterances, in dB of full scale.

    Raises:
        UserError: for ranges that are reversed or out of bounds.
    """

    def __init__(
        self,
        seconds: float = 15.0,
        speakers: Sequence[int] = (1, 4),
        turn: Sequence[float] = (1.0, 6.0),
        pause: Sequence[float] = (0.0, 1.0),
        overlap_prob: float = 0.3,
        overlap: Sequence[float] = (0.2, 2.0),
        stay_prob: float = 0.2,
        level_db: Sequence[float] = (-32.0, -20.0),
    ) -> None:
        if not seconds > 0:
            raise UserError(f"task.conversations.seconds={seconds}: need more than 0")
        _check_range("speakers", speakers, 1)
        _check_range("turn", turn, 0.1)
        _check_range("pause", pause, 0)
        _check_range("overlap", overlap, 0)
        _check_range("level_db", level_db)
        for name, share in (("overlap_prob", overlap_prob), ("stay_prob", stay_prob)):
            if not 0 <= share <= 1:
                raise UserError(f"task.conversations.{name}={share}: need a share between 0 and 1")
        self.seconds, self.overlap_prob, self.stay_prob = seconds, overlap_prob, stay_prob
        # Lists of a config are slow to look into.
        self.speakers, self.turn, self.pause = tuple(speakers), tuple(turn), tuple(pause)
        self.overlap, self.level_db = tuple(overlap), tuple(level_db)

    def __call__(self, seed: int, step: int, name: str, first: str, others: Sequence[str], say: Say) -> Conversation:
        """A conversation; all that is drawn depends on (seed, step, name) alone.

        Args:
            seed: of the run.
            step: of the batch.
            name: of the conversation.
            first: who begins.
            others: who may take part besides.
            say: gives utterances.
        """
        rng = numpy_generator(seed, step, name, _STREAM)
        count = min(draw_integer(rng, self.speakers) - 1, len(others))
        cast = [first, *(others[i] for i in rng.permutation(len(others))[:count])]
        levels = {speaker: draw_uniform(rng, self.level_db) for speaker in cast}
        tracks = {speaker: np.zeros(round(self.seconds * SAMPLING_RATE), np.float32) for speaker in cast}
        turns: list[Turn] = []
        ends = dict.fromkeys(cast, 0.0)
        at, speaker = draw_uniform(rng, self.pause), first
        while at < self.seconds:
            length = self._speak(rng, tracks[speaker], speaker, at, levels[speaker], say, turns)
            ends[speaker] = at + length
            after = self._next(rng, speaker, cast, ends)
            overlaps = after != speaker and rng.random() < self.overlap_prob
            gap = -draw_uniform(rng, self.overlap) if overlaps else draw_uniform(rng, self.pause)
            at, speaker = max(max(ends.values()) + gap, ends[after], at), after
        return Conversation(tracks, tuple(sorted(turns, key=lambda turn: turn.start)))

    def _speak(
        self,
        rng: np.random.Generator,
        track: NDArray[np.float32],
        speaker: str,
        at: float,
        level_db: float,
        say: Say,
        turns: list[Turn],
    ) -> float:
        """Adds an utterance to a track and its spans to the turns; returns its seconds."""
        longest = draw_uniform(rng, self.turn)
        utterance = say(rng, speaker)
        if utterance is None:
            return longest
        start = round(at * SAMPLING_RATE)
        audio = utterance.audio[: min(round(longest * SAMPLING_RATE), len(track) - start)]
        length, begin = len(audio) / SAMPLING_RATE, start / SAMPLING_RATE
        track[start : start + len(audio)] += at_level(audio, level_db)
        spans = [(a, min(b, length)) for a, b in utterance.spans if a < length]
        turns += [Turn(speaker, begin + a, begin + b) for a, b in spans]
        # A turn that rounds to nothing at the very end still has to end the conversation.
        return max(length, 1 / SAMPLING_RATE)

    def _next(self, rng: np.random.Generator, speaker: str, cast: Sequence[str], ends: Mapping[str, float]) -> str:
        """Who speaks next: the same, one who has not spoken yet in half of the cases, or any other."""
        others = [name for name in cast if name != speaker]
        stays, new_one = rng.random() < self.stay_prob, rng.random() < 0.5
        if not others or stays:
            return speaker
        silent = [name for name in others if not ends[name]] if new_one else []
        chosen = silent or others
        return chosen[int(rng.integers(len(chosen)))]


def at_level(audio: Samples, level_db: float) -> Samples:
    """Audio `(N,)` with so many dB of full scale, as a root mean square; silence stays as it is."""
    power = float(np.square(audio, dtype=np.float64).mean()) if len(audio) else 0.0
    return (audio * (10 ** (level_db / 20) / np.sqrt(power))).astype(np.float32) if power > 0 else audio


def clipped(turns: Iterable[Turn], seconds: float) -> tuple[Turn, ...]:
    """The parts of turns that lie in the first `seconds`, in the order of their starts."""
    inside = (Turn(t.speaker, max(0.0, t.start), min(t.end, seconds)) for t in turns)
    return tuple(sorted((t for t in inside if t.end > t.start), key=lambda t: (t.start, t.end, t.speaker)))


def _check_range(name: str, bounds: Sequence[float], least: float = -np.inf) -> None:
    if len(bounds) != 2 or not least <= bounds[0] <= bounds[1]:
        raise UserError(f"task.conversations.{name}={list(bounds)}: need {least} <= low <= high")
