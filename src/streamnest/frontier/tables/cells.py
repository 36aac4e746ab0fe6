"""Texts of single cells."""

from __future__ import annotations

import math

from streamnest.frontier.intervals import Estimate
from streamnest.frontier.results import Point


def amount(hours: float) -> str:
    """Formats a label budget, rounded because utterances rarely sum up to it exactly: 1.5 h, 10 min."""
    return f"{hours:.2g} h" if round(60 * hours) >= 60 else f"{60 * hours:.2g} min"


def latency_text(point: Point) -> str:
    """Formats mean and worst latency of a point."""
    mean, worst = point.latency(), point.latency("latency_worst_ms")
    return f"{mean:.4g} / {worst:.4g} ms" if math.isfinite(mean) else "whole utterance"


def percent(e: Estimate) -> str:
    """Formats a rate with its interval in %; a dash for NaN."""
    if math.isnan(e.value):
        return "–"
    return f"{100 * e.value:.1f} ({100 * e.low:.1f} to {100 * e.high:.1f})"


def relative(e: Estimate | None) -> str:
    """Formats a relative change with its interval; a dash for None."""
    return f"{100 * e.value:+.1f} % ({100 * e.low:+.1f} to {100 * e.high:+.1f})" if e else "–"
