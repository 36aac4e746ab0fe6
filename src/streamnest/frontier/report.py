"""Collects the results of a frontier and writes tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamnest.files.atomic_write import write_whole
from streamnest.frontier.consumed import budget_text
from streamnest.frontier.curves import plot_fine_tunings, read_curves
from streamnest.frontier.effects import plot_variants
from streamnest.frontier.options import FrontierOptions
from streamnest.frontier.plan import Stage, make_plan
from streamnest.frontier.plots import plot_frontier, plot_labels
from streamnest.frontier.records import Records
from streamnest.frontier.results import read_points
from streamnest.frontier.tables.cells import amount
from streamnest.frontier.tables.data import as_csv, as_json
from streamnest.frontier.tables.markdown import as_markdown
from streamnest.frontier.tables.report import FrontierReport
from streamnest.frontier.variants import read_variants
from streamnest.plotting import save
from streamnest.probing.linear_probe import INPUT, MIXED


def gather(options: FrontierOptions, records: Records, command: str = "") -> FrontierReport:
    """Collects the results so far."""
    plan = make_plan(options)
    evaluations = [stage for stage in plan if stage.kind == "evaluate"]
    stored = {stage.key: records.read(stage) for stage in plan}
    commits = sorted({str(record["commit"]) for record in stored.values() if record and record["commit"]})
    return FrontierReport(
        options=options,
        points=read_points(plan, records),
        probes=_probes(plan, records),
        done=sum(stored[stage.key] is not None for stage in evaluations),
        planned=len(evaluations),
        commits=commits,
        command=command,
        variants=read_variants(options, records),
        curves=read_curves(plan, records),
    )


def write(report: FrontierReport, out: Path) -> list[Path]:
    """Writes `frontier.{json,csv,md,png}`, and further plots.

    `labels.png` needs several label budgets, `variants.png` variants, and `curves.png` a validated fine-tuning.
    """
    texts = {"json": as_json, "csv": as_csv, "md": as_markdown}
    paths = [out / f"frontier.{suffix}" for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_whole(path, text(report))
    if report.points:
        labels = max(p.train_hours for p in report.largest)
        figure = plot_frontier(report.largest, "Quality against latency", note(report, labels))
        paths.append(save(figure, out / "frontier.png"))
    if len(report.budgets) > 1:
        paths.append(save(plot_labels(report.points, "Quality against labels", note(report)), out / "labels.png"))
    if report.variants:
        paths.append(
            save(plot_variants(report.variants, "Variants of pretraining", note(report)), out / "variants.png")
        )
    if report.curves:
        budget = budget_text(report.options, report.points, brief=True)
        paths.append(save(plot_fine_tunings(report.curves, f"{budget}; bars: 95 % intervals"), out / "curves.png"))
    return paths


def note(report: FrontierReport, labels: float | None = None) -> str:
    """Returns the subtitle of a plot: budget and intervals; `labels` in hours if there is a single budget."""
    seeds = len(report.options.seeds)
    partial = "" if report.done == report.planned else f"PARTIAL, {report.done} of {report.planned} evaluations. "
    budget = budget_text(report.options, report.points, brief=True)
    on = "" if labels is None else f" on {amount(labels)} of labels"
    return f"{partial}{budget}{on}; bars: 95 % intervals over utterances" + (f" and {seeds} seeds" if seeds > 1 else "")


def _probes(plan: Sequence[Stage], records: Records) -> list[dict[str, Any]]:
    """Returns the probe accuracy on the input, the best and the last layer of each pretrained encoder."""
    stages = [stage for stage in plan if stage.kind == "probe"]
    order = list(dict.fromkeys(stage.preset for stage in stages))
    probes = [(stage, records.read(stage)) for stage in sorted(stages, key=lambda stage: order.index(stage.preset))]
    return [
        {
            "preset": stage.preset,
            "seed": stage.seed,
            **_layers(record["result"]["layers"], "phones"),
            **_layers(record["result"]["layers"], "cer"),
            **_layers(record["result"]["layers"], "speakers"),
        }
        for stage, record in probes
        if record
    ]


def _layers(layers: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Returns the values of a probe; the input is listed separately, to show what the encoder adds or loses."""
    probed = [layer for layer in layers if layer["layer"] != MIXED and layer.get(name) is not None]
    known: dict[str, float] = {layer["layer"]: layer[name] for layer in probed}
    at_input = known.pop(INPUT, None)
    if not known:
        return {name: None}
    by_value = sorted(known, key=lambda layer: known[layer], reverse=name != "cer")
    best, last = by_value[0], list(known)[-1]
    return {name: known[best], f"{name}_layer": best, f"{name}_input": at_input, f"{name}_last": known[last]}
