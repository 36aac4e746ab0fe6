"""Audio that the training runs of a frontier have consumed, as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamnest.curves.curve import amount
from streamnest.frontier.options import FrontierOptions
from streamnest.frontier.results import Point, System


def budget_text(options: FrontierOptions, points: Iterable[Point], brief: bool = False) -> str:
    """Describes the length of pretraining and CTC training.

    Args:
        options: options of the frontier.
        points: points with the hours of audio that the runs have consumed.
        brief: give hours alone if they are known, as in the subtitle of a plot.
    """
    systems = [system for point in points for _, system in point.systems]
    pretraining = _length(options.pretrain_steps, options.pretrain_hours, _known(systems, "pretrain"), brief)
    tuning = _length(options.finetune_steps, options.finetune_hours, _known(systems, "finetune"), brief)
    return f"pretraining {pretraining}, CTC {tuning}"


def consumed_text(systems: Sequence[System | None]) -> str:
    """Formats the audio consumed by pretraining and by CTC training: `50.1 h + 10.0 h`; two values if these differ."""
    pretraining, tuning = (_known(systems, kind) for kind in ("pretrain", "finetune"))
    texts = [" / ".join(dict.fromkeys(map(amount, hours))) for hours in (pretraining, tuning) if hours]
    return " + ".join(texts) or "–"


def _length(steps: int, budget: float | None, consumed: Sequence[float], brief: bool) -> str:
    """Formats a length in updates, in the hours of its budget, or with the mean of the hours consumed."""
    if budget is not None:
        return f"{budget:g} h of audio"
    hours = amount(sum(consumed) / len(consumed)) if consumed else None
    if hours and brief:
        return f"{hours} of audio"
    return f"{steps} updates" + (f" ({hours} of audio)" if hours else "")


def _known(systems: Sequence[System | None], kind: str) -> list[float]:
    return [hours for system in systems if system and (hours := system.consumed(kind)) is not None]
