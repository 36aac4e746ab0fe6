"""Runs side by side: what they were, what they reached, and a page that shows both."""

from streamnest.reporting.comparison.runs import Curve, Run, find_runs

__all__ = ["Curve", "Run", "find_runs"]
