"""Diarization error rate (DER), computed by pyannote.metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamnest.config.tasks import DiarizationConfig
from streamnest.data.conversations.simulation import Turn
from streamnest.downstream.metrics.error_rates import bootstrap, rate
from streamnest.errors import UserError

PARTS = ("missed", "false_alarm", "confusion")


@dataclass(frozen=True)
class Scored:
    """Errors in one conversation, in seconds.

    Attributes:
        id: id of the conversation.
        total: speech, summed over speakers.
        missed: speech that was not detected.
        false_alarm: detected speech that is not in the reference.
        confusion: speech that was assigned to another speaker.
        real: True for a recorded conversation, False for a simulated one.
    """

    id: str
    total: float
    missed: float
    false_alarm: float
    confusion: float
    real: bool = False

    @property
    def errors(self) -> float:
        """Seconds of all errors."""
        return self.missed + self.false_alarm + self.confusion


class Scorer:
    """Computes the diarization error rate under the best assignment of hypothesis to reference speakers.

    Args:
        collar: seconds on *each* side of a boundary of the reference that are not scored. The argument of pyannote is
            the whole width, twice this number.
        skip_overlap: exclude overlapped speech.

    Raises:
        UserError: if pyannote.metrics is missing.
    """

    def __init__(
        self, collar: float = DiarizationConfig.collar, skip_overlap: bool = DiarizationConfig.skip_overlap
    ) -> None:
        if collar < 0:
            raise UserError(f"task.collar={collar}: must be 0 s or more")
        self.collar, self.skip_overlap = collar, skip_overlap
        core, metrics = _pyannote()
        self._core = core
        self._metric = metrics.DiarizationErrorRate(collar=2 * collar, skip_overlap=skip_overlap)

    def __call__(
        self, name: str, reference: Iterable[Turn], hypothesis: Iterable[Turn], seconds: float, real: bool = False
    ) -> Scored:
        """Scores the turns of a hypothesis for a conversation of `seconds` seconds."""
        whole = self._core.Timeline([self._core.Segment(0.0, seconds)])
        parts = self._metric(self._annotation(reference), self._annotation(hypothesis), uem=whole, detailed=True)
        missed, false_alarm = float(parts["missed detection"]), float(parts["false alarm"])
        return Scored(name, float(parts["total"]), missed, false_alarm, float(parts["confusion"]), real)

    def assignment(self, reference: Iterable[Turn], hypothesis: Iterable[Turn]) -> dict[str, str]:
        """Returns the reference speaker of each hypothesis speaker that has a match."""
        return dict(self._metric.optimal_mapping(self._annotation(reference), self._annotation(hypothesis)))

    def _annotation(self, turns: Iterable[Turn]) -> Any:
        annotation = self._core.Annotation()
        for number, turn in enumerate(turns):
            annotation[self._core.Segment(turn.start, turn.end), number] = turn.speaker
        # Merges turns of one speaker that touch or overlap.
        return annotation.support()


def summarize(scored: Sequence[Scored]) -> dict[str, float]:
    """Returns the DER, its 95 % interval over conversations, and its components; empty if there is no speech."""
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
            "diarization error rates need the package pyannote.metrics: pip install -e '.[evaluation]'"
        ) from None
    return pyannote.core, pyannote.metrics.diarization
