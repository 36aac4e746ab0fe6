"""What can be read off each layer of a frozen encoder: `streamnest probe CHECKPOINT`.

For each layer: the accuracy of a linear probe for phones (frames) and speakers (utterances), the error rate of one for
characters (less is better), the effective rank, and how well frames fall into clusters. The first line is the log-mel
input itself, so one sees what the encoder adds; an untrained encoder for comparison: overrides such as
`encoder=lookahead40` in place of the checkpoint. Without a manifest it probes the built-in sample.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from rich.table import Table

from streamnest.checkpoint.resolve_model import resolve_model
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.files.atomic_write import write_json
from streamnest.locations import config_folder, sample_corpus
from streamnest.plotting import save
from streamnest.probing.encoded import choose
from streamnest.probing.layerwise import LayerFigures, probe
from streamnest.probing.phone_labels import read_utterances
from streamnest.probing.plots import plot_layers

SAMPLE = sample_corpus()


def table(figures: list[LayerFigures]) -> Table:
    """For people."""
    shown = Table(title_justify="left")
    for name in ("layer", "phones", "CER", "speakers", "rank", "silhouette", "phone information"):
        shown.add_column(name, justify="right")
    for f in figures:
        values = (f.phones, f.cer, f.speakers, f.rank, f.silhouette, f.phone_information)
        shown.add_row(f.layer, *("" if v is None else f"{v:.3g}" for v in values))
    return shown


@without_trace
def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="+", help="a checkpoint, or config overrides of an untrained encoder")
    parser.add_argument(
        "--manifest", default=str(SAMPLE / "manifest.jsonl"), help="JSON lines: id, path, speaker, split, text"
    )
    parser.add_argument("--phones", help="JSON lines: id, phones [[begin, end, label], ...] in seconds")
    parser.add_argument("--most", type=int, default=600, help="utterances with phones, and as many without")
    parser.add_argument("--clusters", type=int, default=100, help="of k-means")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--picture", help="draw them here, .png or .svg")
    args = parser.parse_intermixed_args()
    torch.set_num_threads(args.threads)
    model = resolve_model(args.model, config_folder())
    phones = args.phones or (SAMPLE / "phones.jsonl" if args.manifest == parser.get_default("manifest") else None)
    utterances = read_utterances(args.manifest, phones)
    figures, notes = probe(model, choose(utterances, args.most, args.seed), args.clusters)
    console = terminal(120)
    console.print(table(figures), *notes, sep="\n")
    if args.json:
        write_json(args.json, {"notes": notes, "layers": [asdict(f) for f in figures]})
    if args.picture:
        # Of a path its end: the run, and which of its checkpoints.
        title = " ".join("/".join(Path(word).parts[-3:]) for word in args.model)
        console.print(f"picture: {save(plot_layers(figures, title), args.picture)}")
    return 0
