"""Runs as described by the files in their folders; no checkpoint is loaded and no server is contacted."""

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

from streamnest.config.aliases import current_config
from streamnest.errors import UserError
from streamnest.reporting.summary import FILE

log = logging.getLogger(__name__)
_MAX_YAML, _ANCHOR = 1 << 20, re.compile(r"(?m)(?:^ *|[-:,] +|[\[{] *)&[\w-]")
_LARGEST = 1e18
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
# Overrides that set where a run writes or how it continues, not what it computes.
_NO_SETTING = ("run_id", "paths", "ckpt_path", "logger", "hydra", "name", "tags", "sweep", "threads", "compile")


@dataclass(frozen=True)
class Curve:
    """A metric over the run: steps, rising, and values."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass
class Run:
    """A training run.

    Attributes:
        folder: folder of the run.
        config: composed config, with today's names of keys.
        choices: chosen option of each config group.
        overrides: overrides of the command line, by key.
        curves: logged metrics by name.
        summary: content of `summary.json`; empty until the run ends.
    """

    folder: Path
    config: dict[str, Any]
    choices: dict[str, Any]
    overrides: dict[str, str]
    curves: dict[str, Curve] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the run in the logs; several runs may share it, see `labels`."""
        return str(self.summary.get("name") or self.folder.name)

    @property
    def preset(self) -> str:
        """Encoder preset."""
        return str(self.summary.get("preset") or self.choices.get("encoder", ""))

    @property
    def task(self) -> str:
        """Name of the trained task."""
        return str(self._entry("task", "name", "pretrain"))

    @property
    def monitor(self) -> str:
        """Metric that selected the best checkpoint; lower is better."""
        return str(self._entry("task", "monitor", "val/loss"))

    @property
    def rankable(self) -> bool:
        """False if the objective predicts masked frames and nothing was masked: the input then contains the answer."""
        masks = {"mask_threshold", "masked_weight"} & set(self.config.get("objective") or ())
        return not (masks and self._entry("masking", "kind", "") == "none")

    @property
    def step(self) -> int:
        """Last logged step."""
        return max(self._logged, int(self.summary.get("step", 0)))

    @property
    def state(self) -> str:
        """`finished`, `stopped at N of M`, or `no summary` for a run that is still running or was killed."""
        hours, planned = (self._entry("trainer", key, -1) for key in ("max_audio_hours", "max_steps"))
        # Steps logged after the summary belong to a continuation that has not ended yet.
        if not self.summary or self._logged > int(self.summary.get("step", 0)):
            return "no summary"
        if isinstance(hours, (int, float)) and hours > 0:
            seen = float(self.summary.get("hours_seen", 0))
            return "finished" if seen >= hours else f"stopped at {seen:.2f} of {hours:g} h"
        return "finished" if planned <= self.step else f"stopped at {self.step} of {planned}"

    @cached_property
    def latency(self) -> dict[str, float]:
        """Values of `LatencyReport` in milliseconds; infinite if the whole utterance is needed."""
        values = self.summary.get("latency") or _logged_latency(self.folder)
        return {name: math.inf if value is None else float(value) for name, value in values.items()}

    def last(self, metric: str) -> float | None:
        """Returns the latest value of a metric, None if it was never logged."""
        curve = self.curves.get(metric)
        return curve.values[-1] if curve else self.summary.get("last", {}).get(metric)

    @property
    def _logged(self) -> int:
        return max((curve.steps[-1] for curve in self.curves.values()), default=0)

    def _entry(self, group: str, key: str, default: Any) -> Any:
        """Returns a value of a config group; runs of earlier versions may lack either."""
        node = self.config.get(group)
        return node.get(key, default) if isinstance(node, dict) else default

    def value(self, key: str) -> Any:
        """Returns the config value of a dotted key, following a reference to another key; None if there is none."""
        value = self._lookup(key)
        reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        referred = self._lookup(reference[1]) if reference else None
        return value if referred is None else referred

    def _lookup(self, key: str) -> Any:
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node

    def setting(self, key: str) -> str:
        """Returns the text of an override, or of the default in effect if the run did not override the key."""
        default = self.choices.get(key) if key in self.choices else self.value(key)
        unknown = default is None or isinstance(default, dict) or "${" in str(default)
        text = str(self.overrides.get(key, "default" if unknown else default))
        try:
            return f"{float(text):g}"
        except ValueError:
            return text

    def example_plot(self) -> Path | None:
        """Returns the newest plot of the predictions for one utterance."""
        found = sorted((self.folder / "plots").glob("step_*.png"))
        return found[-1] if found else None


def find_runs(places: Iterable[str | Path]) -> list[Run]:
    """Reads the runs in and below folders.

    Unreadable runs are left out with a warning, and those that never logged anything, because their command was refused
    or they have just started, with a message.

    Raises:
        UserError: for a folder that does not exist, or if no run is found.
    """
    folders: dict[Path, None] = {}
    for place in map(Path, places):
        if not place.is_dir():
            raise UserError(f"{place} is not a folder: give folders of runs, or a folder that contains some")
        found = [path.parent.parent for path in place.rglob(".hydra/config.yaml")]
        folders |= dict.fromkeys(sorted(found, key=_sort_key))
    read = [run for run in map(read_run, folders) if run]
    runs = [run for run in read if run.curves or run.summary]
    if not runs:
        raise UserError(
            f"no run with results in {', '.join(map(str, places))}: give folders that `streamnest train` wrote"
        )
    if len(read) > len(runs):
        log.info("%d runs without any logged metric are left out", len(read) - len(runs))
    return runs


def labels(runs: Sequence[Run]) -> list[str]:
    """Returns the name of each run, extended by the end of its folder's path if several runs share the name."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({_distinct(run, [r for r in runs if r.name == name])})"
        for name, run in zip(names, runs, strict=True)
    ]


def _distinct(run: Run, others: Sequence[Run]) -> str:
    """Returns the shortest end of a folder's path that no other run shares."""
    parts, all_parts = run.folder.resolve().parts, [other.folder.resolve().parts for other in others]
    for length in range(1, len(parts)):
        if sum(other[-length:] == parts[-length:] for other in all_parts) == 1:
            return "/".join(parts[-length:])
    return str(run.folder)


def settings(runs: Sequence[Run]) -> list[str]:
    """Returns the keys of overrides that differ between runs, in the order in which they were given."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    return [key for key in keys if len({run.overrides.get(key) for run in runs}) > 1]


def _sort_key(folder: Path) -> tuple[Any, ...]:
    """Sorts the jobs of a sweep by number, not alphabetically."""
    number = re.match(r"\d+", folder.name)
    return (str(folder.parent), int(number[0]) if number else -1, folder.name)


def read_run(folder: Path) -> Run | None:
    """Reads a run from its folder; None, with a warning, if its files are not those of a run."""
    try:
        config, hydra = (_yaml(folder / ".hydra" / name) for name in ("config.yaml", "hydra.yaml"))
        config = current_config(config)
        summary = json.loads((folder / FILE).read_text("utf-8")) if (folder / FILE).is_file() else {}
        choices = dict(hydra["hydra"]["runtime"]["choices"])
        overrides = _overrides(hydra["hydra"]["overrides"]["task"])
        _check_summary(summary)
    except (OSError, ValueError, KeyError, TypeError, YAMLError, OmegaConfBaseException, RecursionError) as error:
        log.warning("%s is left out: %s: %s", folder, type(error).__name__, str(error).partition("\n")[0])
        return None
    return Run(folder, config, choices, overrides, _curves(folder), summary)


def _check_summary(summary: Any) -> None:
    """Raises ValueError for a summary with other types of values than `streamnest.reporting.summary` writes."""
    if not isinstance(summary, dict):
        raise ValueError(f"{FILE} is not a table of values")
    tables = [summary.get(name, {}) for name in ("latency", "last")]
    numbers = [summary.get(name, 0) for name in ("step", "parameters", "hours_seen", "seconds")]
    for table in tables:
        if not isinstance(table, dict):
            raise ValueError(f"{FILE} has a {type(table).__name__} in place of a table")
        numbers += [value for value in table.values() if value is not None]
    # Larger values never occur, and an integer of any size may overflow a float.
    if not all(isinstance(one, (int, float)) and abs(one) < _LARGEST for one in numbers):
        raise ValueError(f"{FILE} has a value that is too large or not a number")


def _yaml(path: Path) -> dict[str, Any]:
    text = path.read_text("utf-8")
    # Anchors let a few lines expand to any amount of data; Hydra writes none.
    if len(text) > _MAX_YAML or _ANCHOR.search(text):
        raise ValueError(f"{path.name} is larger than {_MAX_YAML} characters or has anchors")
    found = OmegaConf.to_container(OmegaConf.create(text))
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is not a table of values")
    return {str(key): value for key, value in found.items()}


def _overrides(arguments: Sequence[Any]) -> dict[str, str]:
    pairs = [str(argument).lstrip("+").partition("=") for argument in arguments]
    return {key: value for key, _, value in pairs if key.split(".")[0].split("/")[0] not in _NO_SETTING}


def _curves(folder: Path) -> dict[str, Curve]:
    """Joins the metrics of a run and its continuations, each of which replaces what was logged after its first step.

    Steps repeat if a run was killed after its last checkpoint, and may differ if it continued with other settings.
    """
    points: dict[str, dict[int, float]] = {}
    broken = 0
    for path in sorted(folder.glob("csv*/metrics.csv"), key=lambda path: (len(path.parent.name), path.parent.name)):
        rows, unreadable = _rows(path)
        broken += unreadable
        begin = min((step for step, _ in rows), default=math.inf)
        points = {name: {step: v for step, v in series.items() if step < begin} for name, series in points.items()}
        for step, values in rows:
            for name, value in values.items():
                points.setdefault(name, {})[step] = value
    if broken:
        log.warning("%s: %d unreadable lines of metrics.csv are left out", folder, broken)
    return {name: Curve(*zip(*sorted(series.items()), strict=True)) for name, series in points.items() if series}


def _rows(path: Path) -> tuple[list[tuple[int, dict[str, float]]], int]:
    """Reads the step and the values of each line of a metrics.csv, and counts unreadable lines."""
    rows: list[tuple[int, dict[str, float]]] = []
    broken = 0
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            try:
                step = int(float(row.get("step") or "nan"))
                values = {k: float(v) for k, v in row.items() if k and v and k not in ("step", "epoch")}
            except (TypeError, ValueError):
                broken += 1
                continue
            rows.append((step, values))
    return rows, broken


def _logged_latency(folder: Path) -> dict[str, Any]:
    """Returns the latency that was logged when the run started, for a run without a summary."""
    for path in sorted(folder.glob("csv*/hparams.yaml")):
        with suppress(OSError, ValueError, YAMLError, OmegaConfBaseException):
            return {k.removeprefix("latency/"): v for k, v in _yaml(path).items() if k.startswith("latency/")}
    return {}
