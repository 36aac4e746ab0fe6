"""Results of a frontier as `frontier.json`, `frontier.csv` and `frontier.md`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from streamnest.curves.curve import LearningCurve, describe
from streamnest.formatting import markdown_table
from streamnest.frontier.consumed import budget_text, consumed_text
from streamnest.frontier.intervals import Estimate
from streamnest.frontier.options import FrontierOptions
from streamnest.frontier.results import REFERENCE, Point, System
from streamnest.frontier.variants import SCRATCH, Variant

Row = dict[str, Any]


@dataclass
class FrontierReport:
    """Results of a frontier.

    Attributes:
        options: options of the frontier.
        points: points with results.
        probes: accuracy on the input, the best and the last layer of pretrained encoders, by preset and seed.
        done: number of finished evaluations.
        planned: number of planned evaluations.
        commits: code versions that the results were computed with.
        command: command that was typed.
        variants: variants of pretraining with results.
        curves: learning curves of the fine-tunings, by preset; a label names the initialization, labels and seed.
    """

    options: FrontierOptions
    points: list[Point]
    probes: list[Row]
    done: int
    planned: int
    commits: list[str]
    command: str = ""
    variants: list[Variant] = field(default_factory=list)
    curves: dict[str, list[LearningCurve]] = field(default_factory=dict)

    @property
    def budgets(self) -> list[float | None]:
        """Label budgets, the largest first."""
        return sorted({p.hours for p in self.points}, key=lambda hours: -math.inf if hours is None else -hours)

    @property
    def largest(self) -> list[Point]:
        """Points with the largest label budget."""
        return [p for p in self.points if p.hours == self.budgets[0]] if self.points else []


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
        **_spread("cer", system.cer),
        **_spread("wer", system.wer),
        "cer_seen": system.cer_seen,
        "cer_unseen": system.cer_unseen,
        "cer_by_seed": {str(seed): value for seed, value in system.cer_by_seed.items()},
        **_spread("cer_change_by_pretraining", point.change if pretrained else None),
        **_spread("wer_change_by_pretraining", point.change_wer if pretrained else None),
        **_spread(f"cer_change_from_{REFERENCE}", system.cer_reference),
    }


def _consumed(system: System) -> Row:
    """Returns the hours of audio consumed; reports of earlier versions have no such columns."""
    hours = {f"{kind}_hours_consumed": system.consumed(kind) for kind in ("pretrain", "finetune")}
    return {name: value for name, value in hours.items() if value is not None}


def as_markdown(report: FrontierReport) -> str:
    """Formats the results as a Markdown page."""
    parts = ["# Quality against latency", _state(report)]
    if report.points:
        parts += ["![Character error rate against latency](frontier.png)", main_table(report), _explained(report)]
        parts += ["## By speakers", _by_speakers(report)]
    if any(system.cer_reference for point in report.points for _, system in point.systems):
        parts += [f"## Against `{REFERENCE}`", _reference(report)]
    if len(report.budgets) > 1:
        parts += ["## By amount of labels", "![Character error rate against labels](labels.png)", _labels(report)]
    if report.curves:
        parts += ["## Learning curves", "![Character error rate over audio consumed](curves.png)", _trends(report)]
    if report.variants:
        parts += ["## Variants of pretraining", "![Change of the character error rate](variants.png)"]
        parts += [variants_table(report)]
    if report.probes:
        parts += ["## Linear probes of the frozen encoders", _probes(report)]
    return "\n\n".join(parts) + "\n"


def _state(report: FrontierReport) -> str:
    options = report.options
    whole = "" if report.done == report.planned else f"**Partial: {report.done} of {report.planned} evaluations.** "
    mixed = "" if len(report.commits) < 2 else "**Results of several versions of the code.** "
    text = f"{whole}{mixed}{budget_text(options, report.points)}, "
    text += f"seeds {', '.join(map(str, options.seeds))}; code {', '.join(report.commits) or 'unknown'}."
    return f"{text}\n\n    {report.command}" if report.command else text


def main_table(report: FrontierReport) -> str:
    """Formats latency, compute and error rates for the largest label budget as Markdown, without unknown columns."""
    head = ["preset", "latency mean / worst", "compute p50 / p99", "audio consumed", "CER from scratch"]
    head += ["CER pretrained"]
    head += ["CER change by pretraining", "WER from scratch", "WER pretrained"]
    rows = [head, *(_main_cells(point) for point in report.largest)]
    known = [n for n in range(len(head)) if n < 2 or any(cells[n] != "–" for cells in rows[1:])]
    shown = [[cells[n] for n in known] for cells in rows]
    return markdown_table(shown[0], shown[1:])


def _main_cells(point: Point) -> list[str]:
    both = (point.scratch, point.pretrained)
    compute = point.compute
    cost = f"{compute['p50_ms']:.1f} / {compute['p99_ms']:.1f} ms" if compute else "–"
    rates = [[_percent(getattr(s, unit)) if s else "–" for s in both] for unit in ("cer", "wer")]
    return [
        f"`{point.name}`",
        _latency(point),
        cost,
        consumed_text(both),
        *rates[0],
        _relative(point.change),
        *rates[1],
    ]


def _explained(report: FrontierReport) -> str:
    seeds = len(report.options.seeds)
    sampled = "utterances" if seeds == 1 else f"utterances and the {seeds} seeds"
    return (
        f"Rates in % with 95 % intervals over {sampled} (paired bootstrap). Latency is algorithmic: from a sample's "
        "arrival to the first output frame that covers it, excluding compute time. Compute: time for one chunk of a "
        "single stream on the machine of the evaluation. Audio consumed: by pretraining + by CTC training (from "
        "scratch / pretrained, if they differ). CER change by pretraining: relative to training from scratch; negative "
        "values are fewer errors."
    )


def _by_speakers(report: FrontierReport) -> str:
    head = ["preset", "scratch, seen", "scratch, unseen", "pretrained, seen", "pretrained, unseen"]
    lines = []
    for point in report.largest:
        values = [getattr(s, name) if s else None for s in (point.scratch, point.pretrained) for name in _SPEAKERS]
        lines.append([f"`{point.name}`", *("–" if v is None else f"{100 * v:.1f}" for v in values)])
    return markdown_table(head, lines) + "\n\nCER in %, separately for speakers seen and unseen in training."


_SPEAKERS = ("cer_seen", "cer_unseen")


def _reference(report: FrontierReport) -> str:
    lines = []
    for point in report.largest:
        systems = (point.scratch, point.pretrained)
        if any(s and s.cer_reference for s in systems):
            lines.append(
                [f"`{point.name}`", _latency(point), *(_relative(s.cer_reference if s else None) for s in systems)]
            )
    text = f"CER change relative to `{REFERENCE}` with the same training; positive values are the cost of streaming."
    return markdown_table(["preset", "latency mean / worst", "from scratch", "pretrained"], lines) + "\n\n" + text


def _labels(report: FrontierReport) -> str:
    shown: list[tuple[str, Callable[[Point], str]]] = [
        ("preset", lambda p: f"`{p.name}`"),
        ("labels", lambda p: amount(p.train_hours)),
        ("CER from scratch", lambda p: _percent(p.scratch.cer) if p.scratch else "–"),
        ("CER pretrained", lambda p: _percent(p.pretrained.cer) if p.pretrained else "–"),
        ("CER change by pretraining", lambda p: _relative(p.change)),
    ]
    order = {name: number for number, name in enumerate(dict.fromkeys(p.name for p in report.points))}
    points = sorted(report.points, key=lambda p: (order[p.name], p.train_hours))
    return markdown_table([name for name, _ in shown], [[cell(p) for _, cell in shown] for p in points])


def _trends(report: FrontierReport) -> str:
    """Lists the last validation of each fine-tuning, and whether its curve still falls."""
    lines = [
        [f"`{preset}`", curve.label, describe(curve)] for preset, found in report.curves.items() for curve in found
    ]
    return markdown_table(["preset", "fine-tuning", "CER on the validation set"], lines)


def variants_table(report: FrontierReport) -> str:
    """Formats the effect of each variant of pretraining as Markdown."""
    head = ["preset", "labels", "pretraining", "audio consumed", "CER", "CER, unseen speakers"]
    head += ["CER change from the baseline"]
    return markdown_table(head, [_variant_cells(variant) for variant in report.variants])


def _variant_cells(variant: Variant) -> list[str]:
    system, special = variant.system, {None: "**baseline**", SCRATCH: "none (from scratch)"}
    name = special.get(variant.name, f"{variant.name}: `{variant.overrides}`")
    unseen = "–" if system.cer_unseen is None else f"{100 * system.cer_unseen:.1f}"
    preset = f"{variant.preset}: {variant.context}" if variant.context else variant.preset
    labels = amount(float(next(iter(system.records.values()))["train_hours"]))
    return [
        f"`{preset}`",
        labels,
        name,
        consumed_text([system]),
        _percent(system.cer),
        unseen,
        _relative(variant.change),
    ]


def _variant(variant: Variant) -> Row:
    system = variant.system
    identity = {name: getattr(variant, name) for name in ("name", "overrides", "preset", "context", "hours")}
    return {
        **identity,
        "train_hours": float(next(iter(system.records.values()))["train_hours"]),
        **_consumed(system),
        "seeds": len(system.records),
        **_spread("cer", system.cer),
        **_spread("wer", system.wer),
        "cer_seen": system.cer_seen,
        "cer_unseen": system.cer_unseen,
        "cer_by_seed": {str(seed): value for seed, value in system.cer_by_seed.items()},
        **_spread("cer_change", variant.change),
    }


def _probes(report: FrontierReport) -> str:
    names = {"phones": "phones", "cer": "CER", "speakers": "speakers"}
    lines = [
        [f"`{row['preset']}`", str(row["seed"]), *(cell for name in names for cell in _probe(row, name))]
        for row in report.probes
    ]
    columns = [f"{name}, {layer}" for name in names.values() for layer in ("input", "best layer", "last layer")]
    return markdown_table(["preset", "seed", *columns], lines)


def _probe(row: Row, name: str) -> tuple[str, str, str]:
    if row.get(name) is None:
        return "–", "–", "–"
    at_input, last = row[f"{name}_input"], row[f"{name}_last"]
    first = "–" if at_input is None else f"{100 * at_input:.1f} %"
    return first, f"{100 * row[name]:.1f} % ({row[f'{name}_layer']})", f"{100 * last:.1f} %"


def amount(hours: float) -> str:
    """Formats a label budget, rounded because utterances rarely sum up to it exactly: 1.5 h, 10 min."""
    return f"{hours:.2g} h" if round(60 * hours) >= 60 else f"{60 * hours:.2g} min"


def _latency(point: Point) -> str:
    mean, worst = point.latency(), point.latency("latency_worst_ms")
    return f"{mean:.4g} / {worst:.4g} ms" if math.isfinite(mean) else "whole utterance"


def _percent(e: Estimate) -> str:
    if math.isnan(e.value):
        return "–"
    return f"{100 * e.value:.1f} ({100 * e.low:.1f} to {100 * e.high:.1f})"


def _relative(e: Estimate | None) -> str:
    return f"{100 * e.value:+.1f} % ({100 * e.low:+.1f} to {100 * e.high:+.1f})" if e else "–"


def _spread(name: str, e: Estimate | None) -> dict[str, float | None]:
    values = asdict(e) if e else {"value": None, "low": None, "high": None}
    return {name if key == "value" else f"{name}_{key}": _finite(value) for key, value in values.items()}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
