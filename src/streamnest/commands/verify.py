"""Measures the look-ahead of a model and certifies it: `streamnest verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from streamnest.checkpoint.resolve_model import resolve_model
from streamnest.commands.arguments.verify import parse
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import plain, printable, terminal
from streamnest.encoder.schedule import using_context
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.files.atomic_write import write_json
from streamnest.formatting import milliseconds
from streamnest.locations import config_folder
from streamnest.plotting import save
from streamnest.streaming.adaptive.certificate import adaptive_look_ahead
from streamnest.streaming.adaptive.contexts import adaptive_contexts
from streamnest.streaming.certificate import Certificate, verify
from streamnest.streaming.plots import plot_staircase
from streamnest.streaming.probes.check import Check, measured
from streamnest.streaming.probes.recording import recording
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


def plot(model: EncoderTask, path: Path) -> Path:
    """Plots the influence of input time on output time."""
    title = f"Receptive field of each output frame (look-ahead {milliseconds(model.latency.lookahead_ms)})"
    return save(plot_staircase(Prober(model).staircase(), title), path)


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Certifies a model, and returns 1 if a check failed."""
    args = parse(argv)
    torch.set_num_threads(max(1, args.threads))
    model = resolve_model(args.model, config_folder())
    certificates = certify(model, args.context, args.seed, args.audio)
    if args.json:
        records = [{"context": name, **certificate.as_dict()} for name, certificate in certificates.items()]
        write_json(args.json, records if len(records) > 1 else records[0])
    if args.plot:
        print(printable(plot(model, args.plot)))
    return 0 if all(certificate.passed for certificate in certificates.values()) else 1


def certify(
    model: EncoderTask, context: str | None, seed: int, audio: Path | None = None
) -> dict[str | None, Certificate]:
    """Certifies one context, or all of them and adaptive look-ahead, prints the results, and returns them by name.

    The model keeps the context that was given.
    """
    console, certificates = terminal(120), dict[str | None, Certificate]()
    for name in model.encoder.each_context() if context is None else (context,):
        model.encoder.use_context(name)
        if name is not None:
            console.rule(f"context {name}", align="left")
        with terminal(stderr=True).status("measuring (up to a minute for size=tiny)"):
            # First, so that a long recording is not in memory during the other measurements.
            recorded = [recording(model, audio, seed)] if audio else []
            certificates[name] = verify(model, seed)
            certificates[name].checks += recorded
        show(certificates[name], console)
    if context is None and (checks := _adaptive(model, seed)):
        console.rule("adaptive look-ahead, contexts chosen per chunk", align="left")
        with using_context(model.encoder, model.encoder.choices[adaptive_contexts(model)[-1].name]):
            certificates["adaptive"] = Certificate(model.latency, checks)
        show(certificates["adaptive"], console)
    return certificates


def _adaptive(model: EncoderTask, seed: int) -> list[Check]:
    """Certifies streams that choose the context of each chunk; returns nothing for models without several contexts."""
    try:
        adaptive_contexts(model)
    except UserError:
        return []
    return measured(adaptive_look_ahead, model, seed)
