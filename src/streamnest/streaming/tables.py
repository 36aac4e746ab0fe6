"""Tables and verdicts of `streamnest stream`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from streamnest.console.terminal import printable
from streamnest.streaming.long_forward import FULL_FORWARD_S

Record = dict[str, Any]
# Header, whose lines bound the width of the column, and cell.
Column = tuple[str, Callable[[Record], str]]
_MISSING = "\u2013"


def streamed_tables(records: Sequence[Record]) -> list[Table]:
    """Returns the tables of `streamnest stream`, each with a row for every file and at most 80 columns wide.

    Args:
        records: fields of `StreamResult` and `file`; and `comparison` and `analysis` if they were requested.
    """
    tables = [_table("Streaming cost", _COSTS, records)]
    timed = [record for record in records if record["listener_mean_ms"] is not None]
    compared = [record for record in records if "comparison" in record]
    analyzed = [record for record in records if "analysis" in record]
    tables += [_table("Latency in real time, with computation", _LATENCIES, timed)] if timed else []
    tables += [_table("Streamed and offline output", _DIFFERENCES, compared)] if compared else []
    if analyzed:
        tables.append(_table("Predictions of masked frames", _PREDICTIONS, analyzed))
        tables.append(_table("Most predicted codes (share), and accuracy over time", _CODES, analyzed, wrap=True))
    return tables


def verdict(records: Sequence[Record], tolerance: float) -> list[str]:
    """Reports whether streamed and offline frames agree: a line for all files, or one for each file that differs."""
    compared = [record for record in records if "comparison" in record]
    lines = [f"{printable(r['file'])}: {_disagreement(r['comparison'])}" for r in compared if not _equal(r)]
    if lines or not compared:
        return lines
    worst = max(record["comparison"]["max_difference"] for record in compared)
    limits = {record["comparison"]["max_left_ms"] for record in compared if record["windowed"]}
    scope = " up to the cap of the left context" if None in limits else ""
    result = f"streamed and offline frames are equal within {tolerance:g}{scope} (largest difference {worst:.1e})"
    return [result, *(_limit(ms) for ms in sorted(limits - {None}))]


def _limit(max_left_ms: float) -> str:
    return (
        f"recordings over {FULL_FORWARD_S:g} s: the unlimited left context is limited to {max_left_ms / 1000:g} s in "
        "both modes (--max-left-ms)"
    )


def _equal(record: Record) -> bool:
    return bool(record["comparison"]["equal"])


def _disagreement(comparison: Record) -> str:
    frame = comparison["first_differing_frame"]
    if comparison["max_difference"] is None and not comparison["per_frame"]:
        return f"streamed and offline output differ in length: one of them ends after {frame} frames"
    size = _MISSING if frame is None else f"{comparison['per_frame'][frame]:.1e}"
    worst = comparison["max_difference"]
    largest = "not finite" if worst is None else f"{worst:.1e}"
    return f"streamed and offline frames differ by {size} at frame {frame}, at most by {largest}"


def _table(title: str, columns: Sequence[Column], records: Sequence[Record], wrap: bool = False) -> Table:
    table = Table(title=title, title_justify="left")
    for number, (name, _) in enumerate(columns):
        # Only names of files and lists may wrap, so that no number is broken.
        numeric = number > 0 and not wrap
        table.add_column(name, overflow="fold", no_wrap=numeric, justify="right" if numeric else "left")
    for record in records:
        table.add_row(*(cell(record) for _, cell in columns))
    return table


def _difference(record: Record) -> str:
    worst = record["comparison"]["max_difference"]
    return "frames missing" if worst is None else f"{worst:.1e}"


def _analysis(key: str, form: str) -> Callable[[Record], str]:
    return lambda record: _MISSING if record["analysis"][key] is None else format(record["analysis"][key], form)


def _most_predicted(record: Record) -> str:
    analysis = record["analysis"]
    most = list(analysis["histogram"].items())[:3]
    return ", ".join(f"{code} ({count / analysis['hidden_frames']:.0%})" for code, count in most)


def _by_second(record: Record) -> str:
    return ", ".join(f"{second}s: {share:.0%}" for second, share in record["analysis"]["accuracy_by_second"].items())


_FILE: Column = ("file", lambda r: printable(r["file"]))
_COSTS: list[Column] = [
    _FILE,
    ("audio\ns", lambda r: f"{r['seconds']:.2f}"),
    ("frames", lambda r: str(r["num_frames"])),
    ("first\nframe\nafter ms", lambda r: f"{r['first_frame_audio_ms']:.1f}"),
    (
        "compute ms\np50/p95/p99",
        lambda r: f"{r['compute_p50_ms']:.1f}/{r['compute_p95_ms']:.1f}/{r['compute_p99_ms']:.1f}",
    ),
    ("real-time\nfactor", lambda r: f"{r['real_time_factor']:.3f}"),
    ("memory\nGB", lambda r: f"{r['peak_memory_gb']:.2f}"),
]
_LATENCIES: list[Column] = [
    _FILE,
    ("mean ms", lambda r: f"{r['listener_mean_ms']:.1f}"),
    ("worst ms", lambda r: f"{r['listener_worst_ms']:.1f}"),
]
_DIFFERENCES: list[Column] = [
    _FILE,
    ("largest\ndifference", _difference),
    ("left context\ncut to a window", lambda r: "yes" if r["windowed"] else "no"),
]
_PREDICTIONS: list[Column] = [
    _FILE,
    ("masked\nframes", _analysis("hidden_frames", "d")),
    ("accuracy", _analysis("accuracy", ".1%")),
    ("cross\nentropy\nnats", _analysis("nats", ".2f")),
    ("entropy of\npredictions\nnats", _analysis("predicted_entropy", ".2f")),
    ("codes\npredicted", _analysis("codes_predicted", "d")),
]
_CODES: list[Column] = [_FILE, ("codes", _most_predicted), ("accuracy by second", _by_second)]
