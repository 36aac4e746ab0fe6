"""Reads the results of a frontier from `frontier.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from streamnest.errors import UserError
from streamnest.frontier.intervals import Estimate
from streamnest.frontier.options import FrontierOptions
from streamnest.frontier.results import REFERENCE, Point, System
from streamnest.frontier.tables.report import FrontierReport, Row
from streamnest.frontier.variants import Variant

_COMPUTE = ("chunk_ms", "p50_ms", "p99_ms", "real_time_factor")


def read_report(path: Path) -> FrontierReport:
    """Reads a `frontier.json`, which does not store the errors of single utterances.

    Raises:
        UserError: for a file that is missing or is not a `frontier.json`.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        head = {name: stored[name] for name in ("probes", "done", "planned", "commits", "command")}
        # Reports of earlier versions have no variants.
        head["variants"] = [_variant(row) for row in stored.get("variants", [])]
        return FrontierReport(options=FrontierOptions.of(stored["options"]), points=_points(stored["points"]), **head)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a frontier.json of streamnest frontier ({error})") from error


def _points(rows: list[Row]) -> list[Point]:
    points: dict[tuple[Any, ...], Point] = {}
    for row in rows:
        key = (row["preset"], row["context"], row["hours"])
        point = points.setdefault(key, Point(*key, scratch=None, pretrained=None))
        if row["pretrained"]:
            point.pretrained = _system(row)
            point.change = _estimate(row, "cer_change_by_pretraining")
            point.change_wer = _estimate(row, "wer_change_by_pretraining")
        else:
            point.scratch = _system(row)
    return list(points.values())


def _system(row: Row) -> System:
    known = {
        "latency": {f"latency_{kind}_ms": row[f"latency_{kind}_ms"] for kind in ("mean", "worst")},
        "compute": {name: row[f"compute_{name}"] for name in _COMPUTE} if row["compute_p50_ms"] is not None else None,
        "train_hours": row["train_hours"],
        "utterances": [None] * row["utterances"],
    }
    # Reports of earlier versions lack these columns.
    known["latency"]["left_ms"] = row.get("left_ms")
    known["consumed"] = _consumed(row)
    return _stored_system(row, known, _estimate(row, f"cer_change_from_{REFERENCE}"))


def _variant(row: Row) -> Variant:
    identity = {name: row[name] for name in ("name", "preset", "context", "hours")}
    system = _stored_system(row, {"train_hours": row["train_hours"], "consumed": _consumed(row)})
    overrides = row["overrides"] if "overrides" in row else row["words"]  # its name in earlier versions
    return Variant(**identity, overrides=overrides, system=system, change=_estimate(row, "cer_change"))


def _consumed(row: Row) -> dict[str, float | None]:
    return {kind: row.get(f"{kind}_hours_consumed") for kind in ("pretrain", "finetune")}


def _stored_system(row: Row, known: dict[str, Any], reference: Estimate | None = None) -> System:
    return System(
        records={int(seed): known for seed in row["cer_by_seed"]},
        cer=_known(row, "cer"),
        wer=_known(row, "wer"),
        cer_by_seed={int(seed): rate for seed, rate in row["cer_by_seed"].items()},
        cer_seen=row["cer_seen"],
        cer_unseen=row["cer_unseen"],
        cer_reference=reference,
    )


def _estimate(row: Row, name: str) -> Estimate | None:
    return None if row[name] is None else _known(row, name)


def _known(row: Row, name: str) -> Estimate:
    """Returns a stored estimate; values that were not finite are stored as null."""
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    return Estimate(*(float("nan") if number is None else number for number in (value, low, high)))
