"""Certifies the look-ahead of a model: `streamnest verify CHECKPOINT`, or with overrides, `encoder=causal`.

Measures look-ahead and left context; the dependence of every stage on later audio, padding and other rows, in every
mode and for any loudness, position and batch; and the difference between streamed and offline output. Compares each
with what the layers declare. Exit status 0: all checks pass; 1: a check fails; 2: the model cannot be built.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from streamnest.checkpoint.resolve_model import resolve_model
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import plain, printable, terminal
from streamnest.encoder_task import EncoderTask
from streamnest.files.atomic_write import write_json
from streamnest.formatting import milliseconds
from streamnest.locations import config_folder
from streamnest.plotting import save
from streamnest.streaming.certificate import Certificate, verify
from streamnest.streaming.plots import plot_staircase
from streamnest.streaming.receptive_field import Prober


def show(certificate: Certificate, console: Console) -> None:
    """Prints the declared latency, the checks and the verdict."""
    contract = Table(title="Declared latency", title_justify="left", show_header=False)
    latency = certificate.latency
    for name, value in (
        ("look-ahead of the front end", latency.front_end_ms),
        ("look-ahead of the subsampling", latency.subsampling_ms),
        ("look-ahead of attention and convolution", latency.context_ms),
        ("look-ahead, total", latency.lookahead_ms),
        ("frame stride", latency.frame_ms),
        ("chunk", latency.chunk_ms),
        ("algorithmic latency, mean", latency.latency_mean_ms),
        ("algorithmic latency, worst", latency.latency_worst_ms),
    ):
        contract.add_row(name, milliseconds(value))
    measured = Table(title="Checks", title_justify="left")
    for column in ("check", "declared", "measured", "result"):
        measured.add_column(column, overflow="fold")
    for check in certificate.checks:
        result = plain("pass", "green") if check.passed else plain("FAIL", "bold red")
        measured.add_row(check.name, check.declared, check.measured, result)
    console.print(contract, measured)
    console.print(plain(certificate.verdict, "green" if certificate.passed else "bold red"))


def picture(model: EncoderTask, path: Path) -> Path:
    """Plots the influence of input time on output time."""
    title = f"Receptive field of each output frame (look-ahead {milliseconds(model.latency.lookahead_ms)})"
    return save(plot_staircase(Prober(model).staircase(), title), path)


@without_trace
def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="+", help="a checkpoint, or config overrides such as encoder=causal")
    parser.add_argument("--context", help="certify one context of encoder=dynamic; else each of them")
    parser.add_argument("--json", type=Path, help="write the certificate here; a list where there are several")
    parser.add_argument("--picture", type=Path, help="draw which input each output hears; of the default context")
    parser.add_argument("--seed", type=int, default=0, help="of the random splits")
    parser.add_argument("--threads", type=int, default=1, help="of the processor; more help only if it is idle")
    args = parser.parse_intermixed_args()
    torch.set_num_threads(max(1, args.threads))
    model = resolve_model(args.model, config_folder())
    certificates = certify(model, args.context, args.seed)
    if args.json:
        records = [{"context": name, **certificate.as_dict()} for name, certificate in certificates.items()]
        write_json(args.json, records if len(records) > 1 else records[0])
    if args.picture:
        print(printable(picture(model, args.picture)))
    return 0 if all(certificate.passed for certificate in certificates.values()) else 1


def certify(model: EncoderTask, context: str | None, seed: int) -> dict[str | None, Certificate]:
    """Certifies the named context or every context of the model, prints the results and returns them by name."""
    console, certificates = terminal(120), dict[str | None, Certificate]()
    for name in model.encoder.each_context() if context is None else (context,):
        model.encoder.use_context(name)
        if name is not None:
            console.rule(f"context {name}", align="left")
        with terminal(stderr=True).status("measuring (up to a minute for size=tiny)"):
            certificates[name] = verify(model, seed)
        show(certificates[name], console)
    return certificates
