"""Writes a pretraining checkpoint as a NeMo archive: `streamnest export-nemo CKPT OUT.nemo`.

NeMo opens it as EncDecDenoiseMaskedTokenPredModel, and its encoder computes the same output for a whole utterance.
Settings that NeMo's encoder cannot compute are refused, and other differences are listed (docs/CHECKPOINTS.md). The
archive is read back and compared with the checkpoint. Exit status 1: they differ; 2: the checkpoint cannot be exported.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import printable, terminal
from streamnest.encoder_task import EncoderTask
from streamnest.interop.nemo import export_nemo, import_nemo
from streamnest.locations import config_folder

TOLERANCE = 1e-4


@torch.no_grad()
def difference(one: EncoderTask, other: EncoderTask) -> float:
    """Computes the largest difference between the outputs of two models for three seconds of noise."""
    rate = one.frontend.sample_rate
    audio = 0.1 * torch.randn(1, 3 * rate, generator=torch.Generator().manual_seed(0))
    outputs = [model(audio, torch.tensor([audio.shape[1]]))[0] for model in (one, other)]
    return float((outputs[0] - outputs[1]).abs().max())


@without_trace
def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of task=pretrain, or a folder of one")
    parser.add_argument("output", type=Path, help="the archive to write, OUT.nemo")
    args = parser.parse_args()
    model, report = export_nemo(args.checkpoint, args.output)
    terminal(120).print(report.table())
    largest = difference(model, import_nemo(args.output, config_folder())[0])
    print(f"wrote {printable(args.output)}; the encoder of the archive differs from the checkpoint by {largest:.1e}")
    return 0 if largest <= TOLERANCE else 1
