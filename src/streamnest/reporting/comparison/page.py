"""The comparison as one HTML file that needs no network, with its plots as PNG files beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader

from streamnest.curves.metrics import rises, title
from streamnest.plotting import save
from streamnest.reporting.comparison.learning import PLAIN, CurveAxes, trends
from streamnest.reporting.comparison.plots import plot_health, plot_latency, plot_learning, plot_settings
from streamnest.reporting.comparison.run import Run
from streamnest.reporting.comparison.runs import labels
from streamnest.reporting.comparison.tables import compare

_CAPTIONS = {
    "latency": "Each point is a run; lower latency is further left. With one seed per setting, differences smaller "
    "than those between seeds are not significant.",
    "curves": "Metric at each validation over the audio consumed by training, with the 95 % interval of the last value "
    "if it is known. Trend: a line fitted to the last third of the hours. A curve also flattens because the learning "
    "rate falls towards the end of its schedule.",
    "settings": "Each point is a run. If several settings were searched at once, runs differ in the others as well.",
    "health": "Few codes in use or a falling rank indicate collapse of targets or representation. Colors and "
    "markers as above.",
}


def write_page(
    sections: Mapping[str, Sequence[Run]],
    folder: Path,
    metric: str | None = None,
    heading: str | None = None,
    sources: Sequence[Path] = (),
    axes: CurveAxes = PLAIN,
) -> Path:
    """Writes `index.html` and `TASK_*.png`, and returns the path of the page.

    Args:
        sections: runs by heading, see `comparable`; each section is ranked separately.
        folder: output folder, created if needed.
        metric: metric to compare by; None takes the one that each task monitors.
        heading: title of the page; None states the tasks and the number of runs.
        sources: folders that the runs were found in.
        axes: axes and labels of the learning curves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_section(name, runs, metric or runs[0].monitor, folder, axes) for name, runs in sections.items()]
    loader = PackageLoader("streamnest.reporting.comparison", "templates")
    page = Environment(loader=loader, autoescape=True).get_template("page.html")
    made = datetime.now().strftime("%Y-%m-%d %H:%M")
    target = folder / "index.html"
    text = page.render(heading=heading or _heading(sections), sections=parts, made=made, sources=sources)
    target.write_text(text, encoding="utf-8")
    return target


def _heading(sections: Mapping[str, Sequence[Run]]) -> str:
    runs = [run for found in sections.values() for run in found]
    tasks = " and ".join(dict.fromkeys(run.task for run in runs))
    return f"Comparison of {len(runs)} run{'' if len(runs) == 1 else 's'}: {tasks}"


def _section(name: str, runs: Sequence[Run], metric: str, folder: Path, axes: CurveAxes) -> dict[str, object]:
    figures = {
        "latency": plot_latency(runs, metric),
        "settings": plot_settings(runs, metric),
        "curves": plot_learning(runs, metric, axes),
        "health": plot_health(runs),
    }
    described = trends(runs, metric, axes)
    plots = [
        {
            "name": kind,
            "caption": " ".join([_CAPTIONS[kind], *(f"{one}." for one in described if kind == "curves")]),
            "image": _embedded(save(figure, folder / f"{_slug(name)}_{kind}.png")),
        }
        for kind, figure in figures.items()
        if figure
    ]
    details = [
        {"name": label, "folder": str(run.folder), "overrides": run.overrides, "image": _embedded(run.example_plot())}
        for label, run in zip(labels(runs), runs, strict=True)
    ]
    return {
        "name": name,
        "metric": f"{title(metric)}; {'higher' if rises(metric) else 'lower'} is better",
        "table": compare(runs, metric),
        "unranked": not all(run.rankable for run in runs),
        "plots": plots,
        "details": details,
    }


def _slug(heading: str) -> str:
    """Returns a short file name that is unique for a heading."""
    task, _, rest = heading.partition(", ")
    return f"{task}_{hashlib.sha256(rest.encode()).hexdigest()[:8]}" if rest else task


def _embedded(path: Path | None) -> str | None:
    """Returns an image as base64 text to embed in the page."""
    return None if path is None else base64.b64encode(path.read_bytes()).decode()
