"""Probes each layer of a frozen encoder: `streamnest probe`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.table import Table

from streamnest.checkpoint.resolve_model import resolve_model
from streamnest.commands.arguments.probe import parse
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.files.atomic_write import write_json
from streamnest.locations import config_folder, sample_corpus
from streamnest.plotting import save
from streamnest.probing.encoded import choose
from streamnest.probing.layerwise import LayerFigures, probe
from streamnest.probing.phone_labels import read_utterances
from streamnest.probing.plots import plot_layers


def table(figures: list[LayerFigures]) -> Table:
    """Returns the figures as a table for the terminal."""
    shown = Table(title_justify="left")
    for name in ("layer", "phones", "CER", "speakers", "rank", "silhouette", "phone information"):
        shown.add_column(name, justify="right")
    for f in figures:
        values = (f.phones, f.cer, f.speakers, f.rank, f.silhouette, f.phone_information)
        shown.add_row(f.layer, *("" if v is None else f"{v:.3g}" for v in values))
    return shown


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Prints, writes and plots the figures of each layer."""
    args = parse(argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    model = resolve_model(args.model, config_folder())
    sample = sample_corpus()
    manifest, phones = args.manifest or str(sample / "manifest.jsonl"), args.phones
    if phones is None and args.manifest is None:
        phones = sample / "phones.jsonl"
    utterances = choose(read_utterances(manifest, phones), args.most, args.seed)
    left = STREAM_LEFT_MS if args.max_left_ms is None else args.max_left_ms
    figures, notes = probe(model, utterances, args.clusters, left)
    console = terminal(120)
    console.print(table(figures), *notes, sep="\n")
    if args.json:
        write_json(args.json, {"notes": notes, "layers": [asdict(f) for f in figures]})
    if args.plot:
        # The last parts of a path name the run and the checkpoint.
        title = "Probes of each encoder layer: " + " ".join("/".join(Path(word).parts[-3:]) for word in args.model)
        console.print(f"plot: {save(plot_layers(figures, title), args.plot)}")
    return 0
