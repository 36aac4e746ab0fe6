"""Certificate of a checkpoint: how far a model really looks ahead and back, against what it declares.

`PROBES` lists what is measured, one module each in `streaming/probes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from streamnest.encoder_task import EncoderTask
from streamnest.latency import LatencyReport, find_leaks
from streamnest.streaming.probes.batches import neighbours
from streamnest.streaming.probes.check import TOLERANCES, Check, Probe, measured
from streamnest.streaming.probes.draws import draws
from streamnest.streaming.probes.latencies import latencies, promises
from streamnest.streaming.probes.left import left_context
from streamnest.streaming.probes.lookahead import lookahead
from streamnest.streaming.probes.loudness import loudness
from streamnest.streaming.probes.modes import modes
from streamnest.streaming.probes.padding import padding
from streamnest.streaming.probes.places import places
from streamnest.streaming.probes.sessions import minute, operations, sessions
from streamnest.streaming.probes.weights import weights

__all__ = ["PROBES", "TOLERANCES", "Certificate", "Check", "verify"]


@dataclass
class Certificate:
    """What a model declares and what was measured on it.

    Attributes:
        latency: the contract computed from the layers.
        checks: one line for each thing that was measured.
    """

    latency: LatencyReport
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; infinite figures are null."""
        latency = {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in asdict(self.latency).items()}
        return {"passed": self.passed, "latency": latency, "checks": [asdict(check) for check in self.checks]}


def layers(model: EncoderTask, seed: int) -> list[Check]:
    """The settings of the layers, against the list of those that hear the future."""
    leaks = find_leaks(model.encoder, model.latency)
    return [Check("layers", "none that hears the future", "; ".join(leaks) or "none", not leaks)]


# Of every model.
ALWAYS: tuple[Probe, ...] = (promises, padding, neighbours, weights)
# Of models that promise a limited look-ahead.
PROBES: tuple[Probe, ...] = (
    layers,
    promises,
    modes,
    loudness,
    places,
    weights,
    lookahead,
    left_context,
    padding,
    neighbours,
    draws,
    sessions,
    operations,
    minute,
    latencies,
)


def verify(model: EncoderTask, seed: int = 0, probes: Sequence[Probe] | None = None) -> Certificate:
    """Measures a model against its contract.

    Args:
        model: model to measure; it is left as it is.
        seed: of the random splits and weights.
        probes: what to measure; None is all of `PROBES`.
    """
    promised = model.encoder.context.right is not None
    chosen = [probe for probe in (PROBES if probes is None else probes) if promised or probe in ALWAYS]
    return Certificate(model.latency, [check for probe in chosen for check in measured(probe, model, seed)])
