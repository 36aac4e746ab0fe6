"""Entries of a certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError

TOLERANCES = {"float32": 1e-5, "float64": 1e-10}


@dataclass(frozen=True)
class Check:
    """An entry of a certificate: declared value, measured value, and whether they agree."""

    name: str
    declared: str
    measured: str
    passed: bool


Probe = Callable[[EncoderTask, int], list[Check]]


def at_most(name: str, measure: Callable[[], float], tolerance: float) -> Check:
    """Checks that a measured difference is at most a tolerance; a `UserError` of the model fails the check."""
    try:
        difference = measure()
    except UserError as error:
        return Check(name, f"at most {tolerance:.0e}", str(error), False)
    return Check(name, f"at most {tolerance:.0e}", f"{difference:.1e}", difference <= tolerance)


def measured(probe: Probe, model: EncoderTask, seed: int) -> list[Check]:
    """Runs a probe; an error of the model becomes a failed check with the reason."""
    try:
        return probe(model, seed)
    except (RuntimeError, ValueError, IndexError, TypeError, UserError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        name = probe.__name__.replace("_", " ")
        return [Check(name, "measurable", f"cannot be measured: {reason}", False)]
