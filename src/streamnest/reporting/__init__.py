"""Panels, summaries, and the comparison of runs."""
