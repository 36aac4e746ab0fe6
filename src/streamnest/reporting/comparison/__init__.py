"""Comparison of training runs: their settings, latency and metrics, in tables and on an HTML page."""

from streamnest.reporting.comparison.run import Curve, Run
from streamnest.reporting.comparison.runs import find_runs

__all__ = ["Curve", "Run", "find_runs"]
