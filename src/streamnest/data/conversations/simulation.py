"""Simulation of conversations from utterances of single speakers, reproducible from a key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamnest.data.audio import SAMPLING_RATE, Samples
from streamnest.data.augment.ranges import check_range, check_share, sample_integer, sample_uniform
from streamnest.data.config import LONGEST_S, SHORTEST_S, ConversationConfig
from streamnest.data.labels import Label
from streamnest.errors import UserError
from streamnest.randomness import numpy_generator

_STREAM = 0xD1A
_KEY = "task.conversations"


class Turn(NamedTuple):
    """A span in which a speaker is active, in seconds."""

    speaker: str
    start: float
    end: float


@dataclass(frozen=True)
class ConversationLabel(Label):
    """Label of a conversation.

    Attributes:
        turns: turns in the order of their starts.
        real: True for a recording, False for a simulation.
    """

    turns: tuple[Turn, ...] = ()
    real: bool = False


@dataclass(frozen=True)
class SpeakerUtterance:
    """Speech of one speaker.

    Attributes:
        audio: `(N,)`.
        spans: spans of `audio` that hold speech, in seconds.
    """

    audio: Samples
    spans: Sequence[tuple[float, float]]


class Conversation(NamedTuple):
    """A track `(N,)` of each speaker at the level of that speaker, and the turns in the order of their starts."""

    tracks: dict[str, NDArray[np.float32]]
    turns: tuple[Turn, ...]


# Samples an utterance of a speaker; None if it cannot be read.
NextUtterance = Callable[[np.random.Generator, str], SpeakerUtterance | None]


class ConversationSimulator:
    """Simulates conversations: turns follow each other after a pause or overlap, but a speaker never overlaps itself.

    Lhotse can mix cuts and simulate meetings from statistics of real ones. Here, all random choices must depend only on
    a key, and utterances come from a cache.

    Args:
        config: ranges of everything that is random; by default those of `ConversationConfig`.

    Raises:
        UserError: for ranges that are reversed or out of bounds, and for pauses as long as a conversation.
    """

    def __init__(self, config: ConversationConfig | None = None) -> None:
        c = config or ConversationConfig()
        if not SHORTEST_S <= c.seconds <= LONGEST_S:
            raise UserError(f"{_KEY}.seconds={c.seconds}: need at least {SHORTEST_S:g} and at most {LONGEST_S:g}")
        for key, least in (("speakers", 1), ("turn", 0.1), ("pause", 0), ("overlap", 0), ("level_db", -np.inf)):
            check_range(f"{_KEY}.{key}", getattr(c, key), least)
        if c.pause[1] >= c.seconds:
            raise UserError(
                f"{_KEY}.pause={list(c.pause)}: the first turn follows a pause, so pauses must be below "
                f"{_KEY}.seconds={c.seconds:g}"
            )
        check_share(f"{_KEY}.overlap_prob", c.overlap_prob)
        check_share(f"{_KEY}.stay_prob", c.stay_prob)
        self.config, self.seconds = c, c.seconds

    def __call__(
        self,
        seed: int,
        step: int,
        name: str,
        first: str,
        others: Sequence[str],
        next_utterance: NextUtterance,
    ) -> Conversation:
        """Simulates a conversation; all random choices depend only on (seed, step, name).

        Args:
            seed: seed of the run.
            step: step of the batch.
            name: id of the conversation.
            first: speaker of the first turn.
            others: further speakers that may take part.
            next_utterance: samples utterances.
        """
        config = self.config
        rng = numpy_generator(seed, step, name, _STREAM)
        count = min(sample_integer(rng, config.speakers) - 1, len(others))
        cast = [first, *(others[i] for i in rng.permutation(len(others))[:count])]
        levels = {speaker: sample_uniform(rng, config.level_db) for speaker in cast}
        tracks = {speaker: np.zeros(round(self.seconds * SAMPLING_RATE), np.float32) for speaker in cast}
        turns: list[Turn] = []
        ends = dict.fromkeys(cast, 0.0)
        at, speaker = sample_uniform(rng, config.pause), first
        while at < self.seconds:
            length = self._speak(rng, tracks[speaker], speaker, at, levels[speaker], next_utterance, turns)
            ends[speaker] = at + length
            after = self._next(rng, speaker, cast, ends)
            overlaps = after != speaker and rng.random() < config.overlap_prob
            gap = -sample_uniform(rng, config.overlap) if overlaps else sample_uniform(rng, config.pause)
            at, speaker = max(max(ends.values()) + gap, ends[after], at), after
        return Conversation(tracks, tuple(sorted(turns, key=lambda turn: turn.start)))

    def _speak(
        self,
        rng: np.random.Generator,
        track: NDArray[np.float32],
        speaker: str,
        at: float,
        level_db: float,
        next_utterance: NextUtterance,
        turns: list[Turn],
    ) -> float:
        """Adds an utterance to a track and its spans to the turns; returns its duration in seconds."""
        longest = sample_uniform(rng, self.config.turn)
        utterance = next_utterance(rng, speaker)
        if utterance is None:
            return longest
        start = round(at * SAMPLING_RATE)
        audio = utterance.audio[: min(round(longest * SAMPLING_RATE), len(track) - start)]
        length, begin = len(audio) / SAMPLING_RATE, start / SAMPLING_RATE
        track[start : start + len(audio)] += at_level(audio, level_db)
        spans = [(a, min(b, length)) for a, b in utterance.spans if a < length]
        turns += [Turn(speaker, begin + a, begin + b) for a, b in spans]
        # A turn that rounds to zero samples at the very end must still end the conversation.
        return max(length, 1 / SAMPLING_RATE)

    def _next(self, rng: np.random.Generator, speaker: str, cast: Sequence[str], ends: Mapping[str, float]) -> str:
        """Chooses the next speaker: the same one, or any other; half of the time one who has not spoken yet."""
        others = [name for name in cast if name != speaker]
        stays, prefers_new = rng.random() < self.config.stay_prob, rng.random() < 0.5
        if not others or stays:
            return speaker
        silent = [name for name in others if not ends[name]] if prefers_new else []
        chosen = silent or others
        return chosen[int(rng.integers(len(chosen)))]


def at_level(audio: Samples, level_db: float) -> Samples:
    """Scales audio `(N,)` to an RMS level in dB of full scale; silence is not changed."""
    power = float(np.square(audio, dtype=np.float64).mean()) if len(audio) else 0.0
    return (audio * (10 ** (level_db / 20) / np.sqrt(power))).astype(np.float32) if power > 0 else audio


def clipped(turns: Iterable[Turn], seconds: float) -> tuple[Turn, ...]:
    """Returns the parts of turns that lie in the first `seconds`, in the order of their starts."""
    inside = (Turn(t.speaker, max(0.0, t.start), min(t.end, seconds)) for t in turns)
    return tuple(sorted((t for t in inside if t.end > t.start), key=lambda t: (t.start, t.end, t.speaker)))
