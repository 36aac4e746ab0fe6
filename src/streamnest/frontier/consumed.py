"""Audio that the training runs of a frontier have consumed, as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamnest.curves.curve import amount
from streamnest.frontier.options import FrontierOptions
from streamnest.frontier.results import Point, System


def budget_text(options: FrontierOptions, points: Iterable[Point]) -> str:
    """Describes the length of pretraining and CTC training, in hours of audio or in updates with their mean hours."""
    systems = [system for point in points for _, system in point.systems]
    pretraining = _length(options.pretrain_steps, options.pretrain_hours, systems, "pretrain")
    return f"{pretraining} in pretraining, " + (
        f"{_length(options.finetune_steps, options.finetune_hours, systems, 'finetune')} in CTC training"
    )


def consumed_text(systems: Sequence[System | None]) -> str:
    """Formats the audio consumed by pretraining and by CTC training: `50.1 h + 10.0 h`; two values if these differ."""
    pretraining, tuning = (_known(systems, kind) for kind in ("pretrain", "finetune"))
    texts = [" / ".join(dict.fromkeys(map(amount, hours))) for hours in (pretraining, tuning) if hours]
    return " + ".join(texts) or "–"


def _length(steps: int, hours: float | None, systems: Sequence[System], kind: str) -> str:
    if hours is not None:
        return f"{hours:g} h of audio"
    known = _known(systems, kind)
    return f"{steps} updates" + (f" ({amount(sum(known) / len(known))} of audio)" if known else "")


def _known(systems: Sequence[System | None], kind: str) -> list[float]:
    return [hours for system in systems if system and (hours := system.consumed(kind)) is not None]
