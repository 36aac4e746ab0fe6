"""What streaming files showed, as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from streamnest.console.terminal import printable

Record = dict[str, Any]
Column = tuple[str, Callable[[Record], str]]


def streamed_tables(records: Sequence[Record]) -> list[Table]:
    """Records of `streamnest stream`: a table with a row for each file, and one of their analysis where there is one.

    Args:
        records: `StreamResult` by field with `file`, and `comparison` and `analysis` where they were asked for.
    """
    columns = list(_COSTS)
    columns += _PACED if any(record["listener_mean_ms"] is not None for record in records) else []
    columns += _COMPARED if any("comparison" in record for record in records) else []
    tables = [_table("streamed", columns, records)]
    analysed = [record for record in records if "analysis" in record]
    return tables + ([_table("predicted where audio is hidden", _ANALYSED, analysed)] if analysed else [])


def _table(title: str, columns: Sequence[Column], records: Sequence[Record]) -> Table:
    table = Table(title=title, title_justify="left")
    for name, _ in columns:
        table.add_column(name, overflow="fold")
    for record in records:
        table.add_row(*(cell(record) for _, cell in columns))
    return table


def _difference(record: Record) -> str:
    worst = record["comparison"]["max_difference"]
    return ("frames missing" if worst is None else f"{worst:.1e}") + (", windowed" if record["windowed"] else "")


def _analysis(key: str, form: str) -> Callable[[Record], str]:
    return lambda record: "\u2013" if record["analysis"][key] is None else format(record["analysis"][key], form)


def _most_used(record: Record) -> str:
    found = record["analysis"]
    return ", ".join(
        f"{code} ({count / found['hidden_frames']:.0%})" for code, count in list(found["histogram"].items())[:3]
    )


def _by_second(record: Record) -> str:
    return "  ".join(f"{second}: {share:.0%}" for second, share in record["analysis"]["accuracy_by_second"].items())


_FILE: Column = ("file", lambda r: printable(r["file"]))
_COSTS: list[Column] = [
    _FILE,
    ("audio s", lambda r: f"{r['seconds']:.2f}"),
    ("frames", lambda r: str(r["num_frames"])),
    ("first frame after", lambda r: f"{r['first_frame_audio_ms']:.0f} ms"),
    (
        "chunk p50 / p95 / p99 ms",
        lambda r: f"{r['compute_p50_ms']:.1f} / {r['compute_p95_ms']:.1f} / {r['compute_p99_ms']:.1f}",
    ),
    ("RTF", lambda r: f"{r['real_time_factor']:.3f}"),
    ("memory GB", lambda r: f"{r['peak_memory_gb']:.2f}"),
]
_PACED: list[Column] = [
    ("listener mean / worst ms", lambda r: f"{r['listener_mean_ms']:.0f} / {r['listener_worst_ms']:.0f}")
]
_COMPARED: list[Column] = [("max difference", _difference)]
_ANALYSED: list[Column] = [
    _FILE,
    ("hidden frames", _analysis("hidden_frames", "d")),
    ("right", _analysis("accuracy", ".1%")),
    ("nats", _analysis("nats", ".2f")),
    ("entropy of predictions, nats", _analysis("predicted_entropy", ".2f")),
    ("codes predicted", _analysis("codes_predicted", "d")),
    ("most used", _most_used),
    ("right in each second", _by_second),
]
