"""Writes a NeMo archive and compares it with the checkpoint: `streamnest export-nemo`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from streamnest.commands.arguments.export_nemo import parse
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import printable, terminal
from streamnest.encoder_task import EncoderTask
from streamnest.interop.nemo import export_nemo, import_nemo
from streamnest.locations import config_folder

TOLERANCE = 1e-4


@torch.no_grad()
def difference(one: EncoderTask, other: EncoderTask) -> float:
    """Returns the largest difference between the outputs of two models for three seconds of noise."""
    rate = one.frontend.sample_rate
    audio = 0.1 * torch.randn(1, 3 * rate, generator=torch.Generator().manual_seed(0))
    outputs = [model(audio, torch.tensor([audio.shape[1]]))[0] for model in (one, other)]
    return float((outputs[0] - outputs[1]).abs().max())


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Exports a checkpoint and returns the exit status."""
    args = parse(argv)
    model, report = export_nemo(args.checkpoint, args.output)
    terminal(120).print(report.table())
    worst = difference(model, import_nemo(args.output, config_folder())[0])
    print(f"wrote {printable(args.output)}; read back, the output of its encoder differs by at most {worst:.1e}")
    return 0 if worst <= TOLERANCE else 1
