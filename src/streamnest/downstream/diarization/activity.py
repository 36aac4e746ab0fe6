"""Speaker activity: turns to frames and back, and decisions from probabilities, offline and live."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from streamnest.data.conversations.simulation import Turn
from streamnest.errors import UserError
from streamnest.plotting import runs, to_numpy


def arrivals(turns: Sequence[Turn], most: int) -> list[str]:
    """Speakers in the order in which they begin; of more than `most` those who speak longest."""
    spoken: dict[str, float] = {}
    for turn in turns:
        spoken[turn.speaker] = spoken.get(turn.speaker, 0.0) + turn.end - turn.start
    kept = {speaker for speaker, _ in sorted(spoken.items(), key=lambda item: (-item[1], item[0]))[:most]}
    ordered = sorted(turns, key=lambda turn: (turn.start, turn.speaker))
    return [speaker for speaker in dict.fromkeys(turn.speaker for turn in ordered) if speaker in kept]


def turns_to_frames(turns: Sequence[Turn], frames: int, frame_s: float, most: int) -> Tensor:
    """Who speaks in the middle of the block of each frame.

    Args:
        turns: of one conversation.
        frames: T.
        frame_s: seconds of a block.
        most: S speakers.

    Returns:
        `(T, S)` boolean, speakers in the order of their arrival; the rest is silent.
    """
    middle = (torch.arange(frames, dtype=torch.float64) + 0.5) * frame_s
    active = torch.zeros(frames, most, dtype=torch.bool)
    for column, speaker in enumerate(arrivals(turns, most)):
        own = torch.tensor([(t.start, t.end) for t in turns if t.speaker == speaker], dtype=torch.float64)
        active[:, column] = ((middle[:, None] >= own[:, 0]) & (middle[:, None] < own[:, 1])).any(1)
    return active


def frames_to_turns(active: Tensor, frame_s: float, names: Sequence[str] | None = None) -> list[Turn]:
    """Runs of activity `(T, S)` as turns, in the order of their starts.

    Args:
        active: boolean.
        frame_s: seconds of a frame.
        names: of the columns; None numbers them from "speaker 1".
    """
    names = names or [f"speaker {column + 1}" for column in range(active.shape[1])]
    found = [
        Turn(names[column], start * frame_s, end * frame_s)
        for column in range(active.shape[1])
        for start, end in runs(to_numpy(active[:, column]))
    ]
    return sorted(found, key=lambda turn: (turn.start, turn.speaker))


class Decision:
    """A threshold, then the majority of a window of frames around each, before and after which nobody speaks.

    Args:
        threshold: of the probability.
        past: frames of the window before the frame.
        future: frames after it, which are waited for.
    """

    def __init__(self, threshold: float = 0.5, past: int = 0, future: int = 0) -> None:
        if not 0 < threshold < 1:
            raise UserError(f"task.threshold={threshold}: need a probability between 0 and 1")
        self.threshold, self.past, self.future = threshold, past, future

    @classmethod
    def of(cls, threshold: float, median_ms: float, lookahead_ms: float, frame_ms: float) -> Decision:
        """From milliseconds; a window of 0 ms is the frame alone.

        Raises:
            UserError: for what is no whole number of frames, or a look-ahead beyond the window.
        """
        window = max(1, _frames("median_ms", median_ms, frame_ms))
        future = _frames("median_lookahead_ms", lookahead_ms, frame_ms)
        if future >= window:
            raise UserError(
                f"task.median_lookahead_ms={lookahead_ms:g}: need less than task.median_ms={median_ms:g}, 0 is causal"
            )
        return cls(threshold, window - 1 - future, future)

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Decisions `(T, S)` boolean for a whole conversation `(T, S)`."""
        live = LiveDecision(self, probabilities.shape[1])
        return torch.cat([live.push(probabilities), live.flush()])


class LiveDecision:
    """The same, frame by frame; what was decided stays so.

    Args:
        decision: how.
        speakers: S.
    """

    def __init__(self, decision: Decision, speakers: int) -> None:
        self.decision = decision
        self._heard = torch.zeros(decision.past, speakers, dtype=torch.bool)

    def push(self, probabilities: Tensor) -> Tensor:
        """Decisions `(n, S)` that the next probabilities `(k, S)` complete."""
        return self._decide(probabilities > self.decision.threshold)

    def flush(self) -> Tensor:
        """The decisions `(future, S)` at most that wait, as nobody speaks any more."""
        return self._decide(self._heard.new_zeros(self.decision.future, self._heard.shape[1]))

    def _decide(self, above: Tensor) -> Tensor:
        width = self.decision.past + 1 + self.decision.future
        heard = torch.cat([self._heard.to(above.device), above])
        count = max(0, len(heard) - width + 1)
        self._heard = heard[count:]
        if not count:
            return above[:0]
        return 2 * heard.int().unfold(0, width, 1).sum(-1) > width


def _frames(name: str, milliseconds: float, frame_ms: float) -> int:
    frames = milliseconds / frame_ms
    if milliseconds < 0 or abs(frames - round(frames)) > 1e-6:
        low = max(0, int(frames)) * frame_ms
        raise UserError(
            f"task.{name}={milliseconds:g}: need a whole number of encoder frames of {frame_ms:g} ms; "
            f"nearest: {low:g} and {low + frame_ms:g}"
        )
    return round(frames)
