"""All results as JSON and CSV, with rates as fractions."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict

from streamnest.frontier.intervals import Estimate
from streamnest.frontier.results import REFERENCE, Point, System
from streamnest.frontier.tables.report import FrontierReport, Row
from streamnest.frontier.variants import Variant


def as_json(report: FrontierReport) -> str:
    """Formats all results as JSON, with rates as fractions."""
    head = {"done": report.done, "planned": report.planned, "commits": report.commits, "command": report.command}
    content = {"options": report.options.plain(), **head, "points": rows(report), "probes": report.probes}
    content["variants"] = [_variant(variant) for variant in report.variants]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def as_csv(report: FrontierReport) -> str:
    """Formats a line for each point and initialization, with rates as fractions."""
    lines = [{k: v for k, v in row.items() if not isinstance(v, dict)} for row in rows(report)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def rows(report: FrontierReport) -> list[Row]:
    """Returns a row for each point and initialization; unknown values are None."""
    return [_row(point, pretrained, system) for point in report.points for pretrained, system in point.systems]


def _row(point: Point, pretrained: bool, system: System) -> Row:
    compute = point.compute or {}
    return {
        "preset": point.preset,
        "context": point.context,
        "hours": point.hours,
        "train_hours": point.train_hours,
        "pretrained": pretrained,
        **_consumed(system),
        "seeds": len(system.records),
        "utterances": len(next(iter(system.records.values()))["utterances"]),
        **{f"latency_{kind}_ms": _finite(point.latency(f"latency_{kind}_ms")) for kind in ("mean", "worst")},
        "left_ms": _finite(point.latency("left_ms")),
        **{f"compute_{name}": compute.get(name) for name in ("chunk_ms", "p50_ms", "p99_ms", "real_time_factor")},
        **_rates(system),
        **_spread("cer_change_by_pretraining", point.change if pretrained else None),
        **_spread("wer_change_by_pretraining", point.change_wer if pretrained else None),
        **_spread(f"cer_change_from_{REFERENCE}", system.cer_reference),
    }


def _consumed(system: System) -> Row:
    """Returns the hours of audio consumed; reports of earlier versions have no such columns."""
    hours = {f"{kind}_hours_consumed": system.consumed(kind) for kind in ("pretrain", "finetune")}
    return {name: value for name, value in hours.items() if value is not None}


def _variant(variant: Variant) -> Row:
    system = variant.system
    identity = {name: getattr(variant, name) for name in ("name", "overrides", "preset", "context", "hours")}
    return {
        **identity,
        "train_hours": float(next(iter(system.records.values()))["train_hours"]),
        **_consumed(system),
        "seeds": len(system.records),
        **_rates(system),
        **_spread("cer_change", variant.change),
    }


def _rates(system: System) -> Row:
    return {
        **_spread("cer", system.cer),
        **_spread("wer", system.wer),
        "cer_seen": system.cer_seen,
        "cer_unseen": system.cer_unseen,
        "cer_by_seed": {str(seed): value for seed, value in system.cer_by_seed.items()},
    }


def _spread(name: str, e: Estimate | None) -> dict[str, float | None]:
    values = asdict(e) if e else {"value": None, "low": None, "high": None}
    return {name if key == "value" else f"{name}_{key}": _finite(value) for key, value in values.items()}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
