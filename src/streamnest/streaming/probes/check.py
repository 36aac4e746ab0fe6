"""Lines of a certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError

TOLERANCES = {"float32": 1e-5, "float64": 1e-10}


@dataclass(frozen=True)
class Check:
    """One line of a certificate: what was declared, what was measured, and whether they agree."""

    name: str
    declared: str
    measured: str
    passed: bool


Probe = Callable[[EncoderTask, int], list[Check]]


def at_most(name: str, measure: Callable[[], float], tolerance: float) -> Check:
    """Checks that a measured difference is at most a tolerance; a model that refuses to run fails with its reason."""
    try:
        found = measure()
    except UserError as error:
        return Check(name, f"at most {tolerance:.0e}", str(error), False)
    return Check(name, f"at most {tolerance:.0e}", f"{found:.1e}", found <= tolerance)


def measured(probe: Probe, model: EncoderTask, seed: int) -> list[Check]:
    """Runs one probe; a model that cannot be run by it is not certified, with the reason in place of a trace."""
    try:
        return probe(model, seed)
    except (RuntimeError, ValueError, IndexError, TypeError, UserError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        name = probe.__name__.replace("_", " ")
        return [Check(name, "measured", f"cannot be measured: {reason}", False)]
