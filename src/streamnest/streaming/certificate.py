"""Certificate of a checkpoint: measured look-ahead and left context, compared with the declared ones.

`PROBES` lists the measurements; each has a module in `streaming/probes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from streamnest.encoder_task import EncoderTask
from streamnest.files.atomic_write import json_values
from streamnest.formatting import milliseconds
from streamnest.latency import LatencyReport, find_leaks
from streamnest.streaming.probes.batches import neighbors
from streamnest.streaming.probes.check import TOLERANCES, Check, Probe, measured
from streamnest.streaming.probes.latencies import latencies, promises
from streamnest.streaming.probes.left import left_context
from streamnest.streaming.probes.lookahead import lookahead
from streamnest.streaming.probes.loudness import loudness
from streamnest.streaming.probes.modes import modes
from streamnest.streaming.probes.padding import padding
from streamnest.streaming.probes.positions import positions
from streamnest.streaming.probes.random_batches import random_batches
from streamnest.streaming.probes.sessions import minute, operations, sessions
from streamnest.streaming.probes.weights import weights

__all__ = ["PROBES", "TOLERANCES", "Certificate", "Check", "verify"]


@dataclass
class Certificate:
    """Declared latency of a model and the checks that were measured on it.

    Attributes:
        latency: latency computed from the settings of the layers.
        checks: one entry for each measurement.
    """

    latency: LatencyReport
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """True if every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """The result in a sentence; an offline model is never called certified, as it has no look-ahead to certify."""
        if not self.passed:
            return "not certified: a check failed"
        if self.latency.streams:
            return f"certified: look-ahead {milliseconds(self.latency.lookahead_ms)}"
        return "offline model: its look-ahead has no bound, and it cannot stream; every check passed"

    def as_dict(self) -> dict[str, Any]:
        """Returns the certificate for JSON; infinite values become null."""
        latency, checks = json_values(asdict(self.latency)), [asdict(check) for check in self.checks]
        return {"passed": self.passed, "latency": latency, "checks": checks}


def layers(model: EncoderTask, seed: int) -> list[Check]:
    """Checks that no layer has a setting that makes it depend on later audio."""
    leaks = find_leaks(model.encoder, model.latency)
    return [Check("settings of the layers", "no look-ahead beyond the context", "; ".join(leaks) or "none", not leaks)]


# Probes of every model.
ALWAYS: tuple[Probe, ...] = (promises, padding, neighbors, weights)
# Probes of models with a limited right context.
PROBES: tuple[Probe, ...] = (
    layers,
    promises,
    modes,
    loudness,
    positions,
    weights,
    lookahead,
    left_context,
    padding,
    neighbors,
    random_batches,
    sessions,
    operations,
    minute,
    latencies,
)


def verify(model: EncoderTask, seed: int = 0, probes: Sequence[Probe] | None = None) -> Certificate:
    """Measures a model and compares it with the latency that its layers declare.

    Args:
        model: model to measure, which is not changed.
        seed: seed of the random splits and weights.
        probes: measurements to make; None for all of `PROBES`.
    """
    limited = model.encoder.context.right is not None
    chosen = [probe for probe in (PROBES if probes is None else probes) if limited or probe in ALWAYS]
    return Certificate(model.latency, [check for probe in chosen for check in measured(probe, model, seed)])
