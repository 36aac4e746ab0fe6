"""The results as a Markdown page."""

from __future__ import annotations

from streamnest.curves.curve import describe
from streamnest.formatting import markdown_table
from streamnest.frontier.consumed import budget_text, consumed_text
from streamnest.frontier.results import REFERENCE, Point
from streamnest.frontier.tables.cells import amount, latency_text, percent, relative
from streamnest.frontier.tables.report import FrontierReport, Row
from streamnest.frontier.variants import SCRATCH, Variant


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
    head = ["preset", "latency mean / worst", "compute p50 / p99", "audio consumed"]
    head += ["CER from scratch", "CER pretrained", "CER change by pretraining", "WER from scratch", "WER pretrained"]
    rows = [head, *(_main_cells(point) for point in report.largest)]
    known = [n for n in range(len(head)) if n < 2 or any(cells[n] != "–" for cells in rows[1:])]
    shown = [[cells[n] for n in known] for cells in rows]
    return markdown_table(shown[0], shown[1:])


def _main_cells(point: Point) -> list[str]:
    both, compute = (point.scratch, point.pretrained), point.compute
    cost = f"{compute['p50_ms']:.1f} / {compute['p99_ms']:.1f} ms" if compute else "–"
    rates = [[percent(getattr(s, unit)) if s else "–" for s in both] for unit in ("cer", "wer")]
    return [
        f"`{point.name}`",
        latency_text(point),
        cost,
        consumed_text(both),
        *rates[0],
        relative(point.change),
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
        values = [
            getattr(s, name) if s else None
            for s in (point.scratch, point.pretrained)
            for name in ("cer_seen", "cer_unseen")
        ]
        lines.append([f"`{point.name}`", *("–" if v is None else f"{100 * v:.1f}" for v in values)])
    return markdown_table(head, lines) + "\n\nCER in %, separately for speakers seen and unseen in training."


def _reference(report: FrontierReport) -> str:
    lines = []
    for point in report.largest:
        systems = (point.scratch, point.pretrained)
        if any(s and s.cer_reference for s in systems):
            lines.append(
                [f"`{point.name}`", latency_text(point), *(relative(s.cer_reference if s else None) for s in systems)]
            )
    text = f"CER change relative to `{REFERENCE}` with the same training; positive values are the cost of streaming."
    return markdown_table(["preset", "latency mean / worst", "from scratch", "pretrained"], lines) + "\n\n" + text


def _labels(report: FrontierReport) -> str:
    order = {name: number for number, name in enumerate(dict.fromkeys(p.name for p in report.points))}
    points = sorted(report.points, key=lambda p: (order[p.name], p.train_hours))
    head = ["preset", "labels", "CER from scratch", "CER pretrained", "CER change by pretraining"]
    lines = [
        [
            f"`{point.name}`",
            amount(point.train_hours),
            *(percent(system.cer) if system else "–" for system in (point.scratch, point.pretrained)),
            relative(point.change),
        ]
        for point in points
    ]
    return markdown_table(head, lines)


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
        percent(system.cer),
        unseen,
        relative(variant.change),
    ]


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
