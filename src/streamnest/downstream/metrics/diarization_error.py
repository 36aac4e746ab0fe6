"""Diarisation error rates, as pyannote.metrics computes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamnest.data.conversations.simulation import Turn
from streamnest.downstream.metrics.error_rates import bootstrap, rate
from streamnest.errors import UserError

PARTS = ("missed", "false_alarm", "confusion")


@dataclass(frozen=True)
class Scored:
    """Seconds of one conversation.

    Attributes:
        id: of the conversation.
        total: of speech, that of each speaker counted.
        missed: of it that nobody was found to speak.
        false_alarm: of speech that was found and is none.
        confusion: of speech that was given to another speaker.
        real: whether it is a recording and not simulated.
    """

    id: str
    total: float
    missed: float
    false_alarm: float
    confusion: float
    real: bool = False

    @property
    def errors(self) -> float:
        """Seconds in error."""
        return self.missed + self.false_alarm + self.confusion


class Scorer:
    """Diarisation error rate under the best assignment of speakers found to those of the reference.

    Args:
        collar: seconds on *each* side of a boundary of the reference that are not scored. pyannote's own argument is
            the whole width, twice this.
        skip_overlap: leave out where several speak at once.

    Raises:
        UserError: where pyannote.metrics is missing.
    """

    def __init__(self, collar: float = 0.25, skip_overlap: bool = False) -> None:
        if collar < 0:
            raise UserError(f"task.collar={collar}: need 0 or more seconds")
        self.collar, self.skip_overlap = collar, skip_overlap
        core, metrics = _pyannote()
        self._core = core
        self._metric = metrics.DiarizationErrorRate(collar=2 * collar, skip_overlap=skip_overlap)

    def __call__(
        self, name: str, reference: Iterable[Turn], found: Iterable[Turn], seconds: float, real: bool = False
    ) -> Scored:
        """Scores the turns that were found in a conversation of so many seconds."""
        whole = self._core.Timeline([self._core.Segment(0.0, seconds)])
        parts = self._metric(self._annotation(reference), self._annotation(found), uem=whole, detailed=True)
        missed, false_alarm = float(parts["missed detection"]), float(parts["false alarm"])
        return Scored(name, float(parts["total"]), missed, false_alarm, float(parts["confusion"]), real)

    def assignment(self, reference: Iterable[Turn], found: Iterable[Turn]) -> dict[str, str]:
        """Which speaker of the reference each one found stands for; those without a match are not in it."""
        return dict(self._metric.optimal_mapping(self._annotation(reference), self._annotation(found)))

    def _annotation(self, turns: Iterable[Turn]) -> Any:
        annotation = self._core.Annotation()
        for number, turn in enumerate(turns):
            annotation[self._core.Segment(turn.start, turn.end), number] = turn.speaker
        # Turns of one speaker that touch or overlap are one.
        return annotation.support()


def summarize(scored: Sequence[Scored]) -> dict[str, float]:
    """Error rate over all speech, its 95 % interval over conversations, and its parts; nothing for no speech."""
    counts = np.array([(s.errors, s.total) for s in scored], np.float64).reshape(-1, 2)
    total = counts[:, 1].sum()
    if not total:
        return {}
    low, high = bootstrap(counts)
    parts = {f"der_{part}": sum(getattr(s, part) for s in scored) / float(total) for part in PARTS}
    return {"der": rate(counts), "der_low": low, "der_high": high, **parts}


def _pyannote() -> tuple[Any, Any]:
    try:
        import pyannote.core
        import pyannote.metrics.diarization
    except ImportError:
        raise UserError(
            "diarisation error rates need the package pyannote.metrics: pip install 'streamnest[evaluation]'"
        ) from None
    return pyannote.core, pyannote.metrics.diarization
