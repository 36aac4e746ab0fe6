"""Prints the table of encoder presets with their latency: `streamnest presets`."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markdown import Markdown

from streamnest.commands.arguments.presets import parse
from streamnest.config.compose import compose_config
from streamnest.config.presets import preset_names, small_encoder
from streamnest.console.entry_point import without_trace
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.latency import latency_report
from streamnest.locations import config_folder

HEADER = "| preset | stride | chunk | left | look-ahead | latency mean / worst |\n| --- | --- | --- | --- | --- | --- |"


def milliseconds(value: float) -> str:
    """Formats a duration for the table; infinity is the whole utterance."""
    return f"{value:.4g} ms" if math.isfinite(value) else "whole utterance"


def row(preset: str, overrides: list[str]) -> str:
    """Returns one line of the table, with the error if the preset cannot be built with the overrides."""
    try:
        encoder = small_encoder(config_folder(), preset, overrides)
    except UserError as error:
        return f"| `{preset}` | – | – | – | {error} | – |"
    if encoder.choices.by_name:
        names = ", ".join(f"`{name}`" for name in encoder.choices.by_name)
        return f"| `{preset}` | {milliseconds(encoder.frame_ms)} | sampled | sampled | one of {names} | same |"
    report = latency_report(encoder, LogMel(), encoder.normalize != "utterance")
    left = "unlimited" if math.isinf(report.left_ms) else milliseconds(report.left_ms)
    latency = milliseconds(report.latency_mean_ms)
    if report.streams:
        latency = f"{report.latency_mean_ms:.4g} / {report.latency_worst_ms:.4g} ms"
    cells = (f"`{preset}`", milliseconds(report.frame_ms), milliseconds(report.chunk_ms), left)
    return f"| {' | '.join(cells)} | {milliseconds(report.lookahead_ms)} | {latency} |"


def table(overrides: list[str]) -> str:
    """Returns the Markdown table of all presets, sorted by latency."""
    compose_config(overrides, config_folder(), "presets")  # refuses overrides that no preset has
    rows = sorted((row(name, overrides) for name in preset_names(config_folder())), key=_latency)
    return "\n".join([HEADER, *rows])


def _latency(line: str) -> float:
    figure = line.split("|")[6].split("/", maxsplit=1)[0].strip().split(" ")[0]
    return float(figure) if figure.replace(".", "").isdigit() else math.inf


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table, formatted on a terminal and as Markdown otherwise."""
    text = table(parse(argv).overrides)
    Console().print(Markdown(text)) if sys.stdout.isatty() else print(text)
    return 0
