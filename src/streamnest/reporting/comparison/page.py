"""The comparison as one HTML file that needs no network, and its pictures as PNG files beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from streamnest.plotting import save
from streamnest.reporting.comparison.plots import draw_curves, draw_health, draw_latency, draw_settings
from streamnest.reporting.comparison.runs import Run
from streamnest.reporting.comparison.tables import compare, rises, title

_CAPTIONS = {
    "latency": "Each point is a run. Further left answers sooner. Runs of one seed: differences as small as those "
    "between seeds mean nothing.",
    "curves": "At each validation, which hides the same frames every time.",
    "settings": "Each point is a run; other settings differ too where several were searched at once.",
    "health": "Few codes in use, or a rank that falls, mean that targets or representation collapse.",
}


def write_page(sections: Mapping[str, Sequence[Run]], folder: Path, metric: str | None, heading: str) -> Path:
    """Writes `index.html` and `TASK_*.png` and returns the page.

    Args:
        sections: runs by heading, see `comparable`; each is compared by itself.
        folder: is made.
        metric: to compare by; None takes the one that each task monitors.
        heading: of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_section(task, runs, metric or runs[0].monitor, folder) for task, runs in sections.items()]
    page = Environment(
        loader=PackageLoader("streamnest.reporting.comparison", "templates"), autoescape=True
    ).get_template("page.html")
    target = folder / "index.html"
    target.write_text(
        page.render(heading=heading, sections=parts, made=datetime.now().strftime("%Y-%m-%d %H:%M")), encoding="utf-8"
    )
    return target


def _section(task: str, runs: Sequence[Run], metric: str, folder: Path) -> dict[str, object]:
    figures = {
        "latency": draw_latency(runs, metric),
        "settings": draw_settings(runs, metric),
        "curves": draw_curves(runs, metric),
        "health": draw_health(runs),
    }
    pictures = [
        {
            "name": name,
            "caption": _CAPTIONS[name],
            "image": _embedded(_written(figure, folder, f"{_slug(task)}_{name}.png")),
        }
        for name, figure in figures.items()
        if figure
    ]
    table = compare(runs, metric)
    details = [
        {"name": run.name, "folder": str(run.folder), "overrides": run.overrides, "image": _embedded(run.picture())}
        for run in runs
    ]
    better = "more is better" if rises(metric) else "less is better"
    return {
        "task": task,
        "metric": f"{title(metric)}, {better}",
        "table": table,
        "pictures": pictures,
        "details": details,
    }


def _slug(heading: str) -> str:
    """A heading as part of a file name, short and its own."""
    task, _, rest = heading.partition(", ")
    return f"{task}_{hashlib.sha256(rest.encode()).hexdigest()[:8]}" if rest else task


def _written(figure: Figure, folder: Path, name: str) -> Path:
    return save(figure, folder / name)


def _embedded(path: Path | None) -> str | None:
    """A picture as text that a page can hold."""
    return None if path is None else base64.b64encode(path.read_bytes()).decode()
