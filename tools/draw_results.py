"""Plots the published results of docs/data into docs/images: `python tools/draw_results.py`."""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from streamnest.frontier.effects import plot_variants
from streamnest.frontier.plots import plot_frontier, plot_labels
from streamnest.frontier.report import note
from streamnest.frontier.stored_results import read_report
from streamnest.plotting import save

ROOT = Path(__file__).resolve().parents[1]


def draw(data: Path) -> Figure:
    """Plots a result file: variants of pretraining, several label budgets, or error rate against latency."""
    report = read_report(data)
    if report.variants:
        return plot_variants(report.variants, "Variants of pretraining", note(report))
    if len(report.budgets) > 1:
        return plot_labels(report.points, "Quality against labels", note(report))
    hours = max(point.train_hours for point in report.largest)
    return plot_frontier(report.largest, "Quality against latency", note(report, hours))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images", help="folder for the plots (docs/images)")
    out = parser.parse_args().out
    for data in sorted((ROOT / "docs/data").glob("*.json")):
        print(save(draw(data), out / f"{data.stem}.png"))


if __name__ == "__main__":
    main()
