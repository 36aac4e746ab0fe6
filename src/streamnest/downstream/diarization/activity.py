"""Speaker activity: conversion between turns and frames, and decisions from probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from streamnest.config.tasks import DiarizationConfig
from streamnest.data.conversations.simulation import Turn
from streamnest.errors import UserError
from streamnest.plotting import runs, to_numpy


def arrivals(turns: Sequence[Turn], most: int) -> list[str]:
    """Returns speakers in the order of their first turn; if there are more than `most`, those who speak longest."""
    spoken: dict[str, float] = {}
    for turn in turns:
        spoken[turn.speaker] = spoken.get(turn.speaker, 0.0) + turn.end - turn.start
    kept = {speaker for speaker, _ in sorted(spoken.items(), key=lambda item: (-item[1], item[0]))[:most]}
    ordered = sorted(turns, key=lambda turn: (turn.start, turn.speaker))
    return [speaker for speaker in dict.fromkeys(turn.speaker for turn in ordered) if speaker in kept]


def turns_to_frames(turns: Sequence[Turn], frames: int, frame_s: float, most: int) -> Tensor:
    """Returns speaker activity at the center of the target span of each frame.

    Args:
        turns: turns of one conversation.
        frames: number of frames T.
        frame_s: duration of a frame in seconds.
        most: number of speaker columns S.

    Returns:
        `(T, S)` boolean; columns are in the order of arrival, and columns without a speaker are silent.
    """
    center = (torch.arange(frames, dtype=torch.float64) + 0.5) * frame_s
    active = torch.zeros(frames, most, dtype=torch.bool)
    for column, speaker in enumerate(arrivals(turns, most)):
        spans = torch.tensor([(t.start, t.end) for t in turns if t.speaker == speaker], dtype=torch.float64)
        active[:, column] = ((center[:, None] >= spans[:, 0]) & (center[:, None] < spans[:, 1])).any(1)
    return active


def frames_to_turns(active: Tensor, frame_s: float, names: Sequence[str] | None = None) -> list[Turn]:
    """Converts activity to turns in the order of their starts.

    Args:
        active: `(T, S)` boolean.
        frame_s: duration of a frame in seconds.
        names: names of the speaker columns; None for "speaker 1", "speaker 2" and so on.
    """
    names = names or [f"speaker {column + 1}" for column in range(active.shape[1])]
    turns = [
        Turn(names[column], start * frame_s, end * frame_s)
        for column in range(active.shape[1])
        for start, end in runs(to_numpy(active[:, column]))
    ]
    return sorted(turns, key=lambda turn: (turn.start, turn.speaker))


class Decision:
    """Decision on activity: a threshold, then a median filter; before and after the audio all speakers are silent.

    Args:
        threshold: smallest probability of activity, exclusive.
        past: frames of the filter before the current one.
        future: frames of the filter after it, which delay the decision.
    """

    def __init__(self, threshold: float = DiarizationConfig.threshold, past: int = 0, future: int = 0) -> None:
        if not 0 < threshold < 1:
            raise UserError(f"task.threshold={threshold}: must be above 0 and below 1")
        self.threshold, self.past, self.future = threshold, past, future

    @classmethod
    def of(cls, threshold: float, median_ms: float, lookahead_ms: float, frame_ms: float) -> Decision:
        """Converts milliseconds to frames; a filter of 0 ms is the current frame alone.

        Raises:
            UserError: for a time that is not a multiple of the frame, and for a look-ahead beyond the filter.
        """
        window = max(1, _frames("median_ms", median_ms, frame_ms))
        future = _frames("median_lookahead_ms", lookahead_ms, frame_ms)
        if future >= window:
            raise UserError(
                f"task.median_lookahead_ms={lookahead_ms:g}: must be below task.median_ms={median_ms:g}; 0 is causal"
            )
        return cls(threshold, window - 1 - future, future)

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Returns decisions `(T, S)` boolean for the probabilities `(T, S)` of a whole conversation."""
        live = LiveDecision(self, probabilities.shape[1])
        return torch.cat([live.push(probabilities), live.flush()])


class LiveDecision:
    """Streaming version of `Decision`; decisions are final.

    Args:
        decision: threshold and filter.
        speakers: number of speaker columns S.
    """

    def __init__(self, decision: Decision, speakers: int) -> None:
        self.decision = decision
        self._pending = torch.zeros(decision.past, speakers, dtype=torch.bool)

    def push(self, probabilities: Tensor) -> Tensor:
        """Returns the decisions `(n, S)` that the next probabilities `(k, S)` complete."""
        return self._decide(probabilities > self.decision.threshold)

    def flush(self) -> Tensor:
        """Returns the remaining decisions, `(future, S)` at most, with silence after the end."""
        return self._decide(self._pending.new_zeros(self.decision.future, self._pending.shape[1]))

    def _decide(self, above: Tensor) -> Tensor:
        width = self.decision.past + 1 + self.decision.future
        frames = torch.cat([self._pending.to(above.device), above])
        count = max(0, len(frames) - width + 1)
        self._pending = frames[count:]
        if not count:
            return above[:0]
        return 2 * frames.int().unfold(0, width, 1).sum(-1) > width


def _frames(name: str, milliseconds: float, frame_ms: float) -> int:
    frames = milliseconds / frame_ms
    if milliseconds < 0 or abs(frames - round(frames)) > 1e-6:
        low = max(0, int(frames)) * frame_ms
        raise UserError(
            f"task.{name}={milliseconds:g}: must be a multiple of the encoder frame of {frame_ms:g} ms; the nearest "
            f"values are {low:g} and {low + frame_ms:g}"
        )
    return round(frames)
