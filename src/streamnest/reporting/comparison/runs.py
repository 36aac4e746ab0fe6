"""Runs as their folders tell them; nothing is trained, loaded or asked of a server."""

from __future__ import annotations

import csv
import json
import logging
import math
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from streamnest.errors import UserError
from streamnest.reporting.summary import FILE

log = logging.getLogger(__name__)
_MAX_YAML, _ANCHOR = 1 << 20, re.compile(r"(?m)(?:^ *|[-:,] +|[\[{] *)&[\w-]")
_LARGEST = 1e18
# Overrides that say where a run is or how it continues, and not what it is.
_NO_SETTING = ("run_id", "paths", "ckpt_path", "logger", "hydra", "name", "tags", "sweep", "threads")


@dataclass(frozen=True)
class Curve:
    """A metric over the run: steps, rising, and values."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass
class Run:
    """One run.

    Attributes:
        folder: of the run.
        config: every value it was made with.
        choices: of the config groups.
        overrides: what was given on the command line, by key.
        curves: metrics by name.
        summary: figures at its end; empty where it has not ended.
    """

    folder: Path
    config: dict[str, Any]
    choices: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As logs call it."""
        return str(self.summary.get("name") or self.folder.name)

    @property
    def preset(self) -> str:
        """Of the encoder."""
        return str(self.summary.get("preset") or self.choices.get("encoder", ""))

    @property
    def task(self) -> str:
        """What was trained."""
        return str(self._of("task", "name", "pretrain"))

    @property
    def monitor(self) -> str:
        """The metric that chose its best checkpoint; less is better."""
        return str(self._of("task", "monitor", "val/loss"))

    @property
    def step(self) -> int:
        """The last one that was logged."""
        return max(self._logged, int(self.summary.get("step", 0)))

    @property
    def state(self) -> str:
        """Whether it ended as planned; one that is running or was killed has no summary yet."""
        planned = self._of("trainer", "max_steps", -1)
        # What was logged after the summary is of a continuation that has not ended yet.
        if not self.summary or self._logged > int(self.summary.get("step", 0)):
            return "no summary"
        return "finished" if planned <= self.step else f"stopped at {self.step} of {planned}"

    @cached_property
    def latency(self) -> dict[str, float]:
        """Figures of `LatencyReport`, in milliseconds; infinite where the whole utterance is needed."""
        values = self.summary.get("latency") or _logged_latency(self.folder)
        return {name: math.inf if value is None else float(value) for name, value in values.items()}

    def last(self, metric: str) -> float | None:
        """The latest value of a metric."""
        curve = self.curves.get(metric)
        return curve.values[-1] if curve else self.summary.get("last", {}).get(metric)

    @property
    def _logged(self) -> int:
        return max((curve.steps[-1] for curve in self.curves.values()), default=0)

    def _of(self, group: str, key: str, default: Any) -> Any:
        """A value of a group; runs of an older version may lack either."""
        node = self.config.get(group)
        return node.get(key, default) if isinstance(node, dict) else default

    def picture(self) -> Path | None:
        """The newest of its pictures of one utterance."""
        found = sorted((self.folder / "pictures").glob("step_*.png"))
        return found[-1] if found else None


def find_runs(places: Iterable[str | Path]) -> list[Run]:
    """Reads the runs in folders of runs, and below; what cannot be read is left out with a warning.

    Raises:
        UserError: for a folder that is not there, or for no run in any.
    """
    folders: dict[Path, None] = {}
    for place in map(Path, places):
        if not place.is_dir():
            raise UserError(f"{place} is no folder: give folders of runs, or one that holds such")
        found = [path.parent.parent for path in place.rglob(".hydra/config.yaml")]
        folders |= dict.fromkeys(sorted(found, key=_in_order))
    runs = [run for run in map(_read, folders) if run]
    if not runs:
        raise UserError(f"no run in {', '.join(map(str, places))}: a run has a folder .hydra, which train.py writes")
    return runs


def settings(runs: Sequence[Run]) -> list[str]:
    """Overrides in which runs differ, in the order in which they were given."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    return [key for key in keys if len({run.overrides.get(key) for run in runs}) > 1]


def _in_order(folder: Path) -> tuple[Any, ...]:
    """Jobs of a sweep by number, not by letter."""
    number = re.match(r"\d+", folder.name)
    return (str(folder.parent), int(number[0]) if number else -1, folder.name)


def _read(folder: Path) -> Run | None:
    try:
        config, hydra = (_yaml(folder / ".hydra" / name) for name in ("config.yaml", "hydra.yaml"))
        summary = json.loads((folder / FILE).read_text("utf-8")) if (folder / FILE).is_file() else {}
        choices = hydra["hydra"]["runtime"]["choices"]
        overrides = _settings_of(hydra["hydra"]["overrides"]["task"])
        _check_summary(summary)
    except (OSError, ValueError, KeyError, TypeError, YAMLError, OmegaConfBaseException, RecursionError) as error:
        log.warning("%s is left out: %s: %s", folder, type(error).__name__, str(error).partition("\n")[0])
        return None
    return Run(folder, config, choices, overrides, _curves(folder), summary)


def _check_summary(summary: Any) -> None:
    """Raises ValueError for a summary with values of other types than `streamnest.reporting.summary` writes."""
    if not isinstance(summary, dict):
        raise ValueError(f"{FILE} holds no table of values")
    tables = [summary.get(name, {}) for name in ("latency", "last")]
    numbers = [summary.get(name, 0) for name in ("step", "parameters", "hours_seen", "seconds")]
    for table in tables:
        if not isinstance(table, dict):
            raise ValueError(f"{FILE} holds {type(table).__name__} in place of a table")
        numbers += [value for value in table.values() if value is not None]
    # Larger ones are written by nobody, and integers of any size cannot become floats.
    if not all(isinstance(one, (int, float)) and abs(one) < _LARGEST for one in numbers):
        raise ValueError(f"{FILE} holds a value that is not a number, or too large")


def _yaml(path: Path) -> dict[str, Any]:
    text = path.read_text("utf-8")
    # Anchors let a few lines stand for any amount of data; a config that Hydra writes has none.
    if len(text) > _MAX_YAML or _ANCHOR.search(text):
        raise ValueError(f"{path.name} is larger than a config, or has anchors")
    found = OmegaConf.to_container(OmegaConf.create(text))
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no table of values")
    return {str(key): value for key, value in found.items()}


def _settings_of(words: Sequence[Any]) -> dict[str, str]:
    pairs = [str(word).lstrip("+").partition("=") for word in words]
    return {key: value for key, _, value in pairs if key.split(".")[0].split("/")[0] not in _NO_SETTING}


def _curves(folder: Path) -> dict[str, Curve]:
    """Metrics of a run and of its continuations; the later one counts where both have a step."""
    points: dict[str, dict[int, float]] = {}
    broken = 0
    for path in sorted(folder.glob("csv*/metrics.csv"), key=lambda path: (len(path.parent.name), path.parent.name)):
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.DictReader(file):
                try:
                    step = int(float(row.get("step") or "nan"))
                    values = {k: float(v) for k, v in row.items() if k and v and k not in ("step", "epoch")}
                except (TypeError, ValueError):
                    broken += 1
                    continue
                for name, value in values.items():
                    points.setdefault(name, {})[step] = value
    if broken:
        log.warning("%s: %d lines of metrics cannot be read and are left out", folder, broken)
    return {name: Curve(*zip(*sorted(series.items()), strict=True)) for name, series in points.items()}


def _logged_latency(folder: Path) -> dict[str, Any]:
    """Of a run without a summary: the figures that were logged at its start."""
    for path in sorted(folder.glob("csv*/hparams.yaml")):
        with suppress(OSError, ValueError, YAMLError, OmegaConfBaseException):
            return {k.removeprefix("latency/"): v for k, v in _yaml(path).items() if k.startswith("latency/")}
    return {}
