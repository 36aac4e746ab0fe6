"""Prints every encoder preset with its computed look-ahead and latency: `streamnest presets [overrides]`."""

from __future__ import annotations

import math
import sys

from rich.console import Console
from rich.markdown import Markdown

from streamnest.config.compose import compose_config
from streamnest.config.presets import preset_names, small_encoder
from streamnest.console.entry_point import without_trace
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.latency import latency_report
from streamnest.locations import config_folder

HEADER = "| preset | stride | chunk | left | look-ahead | latency mean / worst |\n| --- | --- | --- | --- | --- | --- |"


def milliseconds(value: float) -> str:
    """A figure as the tables show it; infinity is the whole utterance."""
    return f"{value:.4g} ms" if math.isfinite(value) else "whole utterance"


def row(preset: str, overrides: list[str]) -> str:
    """One line of the table; a preset that cannot be built with the overrides says why."""
    try:
        encoder = small_encoder(config_folder(), preset, overrides)
    except UserError as error:
        return f"| `{preset}` | – | – | – | {error} | – |"
    if encoder.choices.by_name:
        names = ", ".join(f"`{name}`" for name in encoder.choices.by_name)
        return f"| `{preset}` | {milliseconds(encoder.frame_ms)} | drawn | drawn | one of {names} | as those |"
    report = latency_report(encoder, LogMel(), encoder.normalize != "utterance")
    left = "unlimited" if math.isinf(report.left_ms) else milliseconds(report.left_ms)
    latency = milliseconds(report.latency_mean_ms)
    if report.streams:
        latency = f"{report.latency_mean_ms:.4g} / {report.latency_worst_ms:.4g} ms"
    cells = (f"`{preset}`", milliseconds(report.frame_ms), milliseconds(report.chunk_ms), left)
    return f"| {' | '.join(cells)} | {milliseconds(report.lookahead_ms)} | {latency} |"


def table(overrides: list[str]) -> str:
    """The Markdown table of all presets, nearest first."""
    compose_config(overrides, config_folder(), "presets")  # refuses what no preset has
    rows = sorted((row(name, overrides) for name in preset_names(config_folder())), key=_latency)
    return "\n".join([HEADER, *rows])


def _latency(line: str) -> float:
    figure = line.split("|")[6].split("/", maxsplit=1)[0].strip().split(" ")[0]
    return float(figure) if figure.replace(".", "").isdigit() else math.inf


@without_trace
def main() -> int:
    """Prints the table, drawn on a terminal and plain otherwise."""
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return 0
    text = table(sys.argv[1:])
    Console().print(Markdown(text)) if sys.stdout.isatty() else print(text)
    return 0
