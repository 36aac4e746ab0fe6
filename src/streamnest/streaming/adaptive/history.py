"""Contexts that a stream has chosen, and the latency that results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from streamnest.encoder.schedule import Chunk
from streamnest.errors import UserError
from streamnest.streaming.adaptive.contexts import AdaptiveContext


class History:
    """Contexts that the chunks of a stream have had.

    Args:
        contexts: contexts to choose from.
        record: keep every choice; otherwise only counts, in constant memory.

    Attributes:
        frames: number of emitted frames of each context, by name.
        choices: context of each chunk in turn; empty without `record`.
    """

    def __init__(self, contexts: Sequence[AdaptiveContext], record: bool = True) -> None:
        self._latency_ms = {context.name: context.mean_ms for context in contexts}
        self._record = record
        self.frames, self.choices = dict.fromkeys(self._latency_ms, 0), list[AdaptiveContext]()

    def add(self, context: AdaptiveContext, frames: int) -> None:
        """Adds a chunk of which `frames` frames were emitted; the last one of a stream may be incomplete."""
        self.frames[context.name] += frames
        if self._record:
            self.choices.append(context)

    def restore(self, frames: Mapping[str, int], choices: Sequence[AdaptiveContext], emitted: int) -> None:
        """Restores the history of a stream that has emitted `emitted` frames.

        Raises:
            UserError: if the numbers contradict each other, and for a history without choices if they are recorded.
        """
        counts = Counter(context.name for context in choices for _ in range(context.frames))
        if sum(frames.values()) != emitted or (choices and counts != Counter(dict(frames))):
            raise UserError(f"adaptive.frames of the saved stream contradict emitted={emitted}: it was modified")
        if self._record and emitted and not choices:
            raise UserError("the saved stream has no record of its chunks: restore it in a session with record=False")
        self.frames, self.choices = dict(frames), list(choices) if self._record else []

    @property
    def chunks(self) -> list[Chunk]:
        """Chunks of the stream, for `forward_with_chunks`."""
        return [context.chunk for context in self.choices]

    @property
    def mean_ms(self) -> float:
        """Algorithmic latency, mean over the audio of the stream; NaN before the first frame.

        An incomplete last chunk counts as if it had waited for all of its audio.
        """
        return mean_latency(self._latency_ms, self.frames)


def mean_latency(latency_ms: dict[str, float], frames: dict[str, int]) -> float:
    """Returns the average of the latencies of contexts, weighted by their frames; NaN without frames."""
    total = sum(frames.values())
    return sum(latency_ms[name] * count for name, count in frames.items()) / total if total else float("nan")
