"""Reads a run from the files in its folder; no checkpoint is loaded and no server is contacted."""

from __future__ import annotations

import csv
import json
import logging
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from streamnest.config.aliases import current_config
from streamnest.reporting.comparison.run import Curve, Run
from streamnest.reporting.summary import FILE

log = logging.getLogger(__name__)
_MAX_YAML, _ANCHOR = 1 << 20, re.compile(r"(?m)(?:^ *|[-:,] +|[\[{] *)&[\w-]")
_LARGEST = 1e18
# Overrides that set where a run writes or how it continues, not what it computes.
_NO_SETTING = ("run_id", "paths", "ckpt_path", "logger", "hydra", "name", "tags", "sweep", "threads", "compile")


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
    return Run(folder, config, choices, overrides, _curves(folder), summary, _latency(folder, summary))


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


def _latency(folder: Path, summary: dict[str, Any]) -> dict[str, float]:
    """Returns the latency of the summary, or the one that was logged at the start of a run without a summary."""
    if summary.get("latency"):
        return _milliseconds(summary["latency"])
    for path in sorted(folder.glob("csv*/hparams.yaml")):
        with suppress(OSError, ValueError, TypeError, YAMLError, OmegaConfBaseException):
            logged = {k: v for k, v in _yaml(path).items() if k.startswith("latency/")}
            return _milliseconds({k.removeprefix("latency/"): v for k, v in logged.items()})
    return {}


def _milliseconds(values: dict[str, Any]) -> dict[str, float]:
    return {name: math.inf if value is None else float(value) for name, value in values.items()}
