"""Compares conversions of the convolution module to a causal one: `python benchmarks/compare_transfer.py CHECKPOINT`.

Each row is a streaming run that starts from the checkpoint; its validation loss is printed before and after training.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import THREADS


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/compare_transfer.py", __doc__)
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a bidirectional run with batch norm")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="config overrides such as encoder=causal")
    parser.add_argument("--steps", type=int, default=40, help="training steps per row; 0 only validates")
    parser.add_argument("--threads", type=THREADS, default=2, help="CPU threads")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import itertools
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("STREAMNEST_ROOT", os.path.relpath(ROOT))

import lightning as L
import torch
from hydra import compose
from omegaconf import DictConfig

from streamnest.build import build_data, build_model
from streamnest.checkpoint.convert_convolution import BATCH_NORMS, FUTURE_TAPS, Conversion
from streamnest.checkpoint.transfer import transfer
from streamnest.config.compose import config_loader
from streamnest.console.entry_point import without_trace
from streamnest.console.overrides import refuse_overrides
from streamnest.corpus_statistics import fit_statistics
from streamnest.training.budget import make_trainer


def run(cfg: DictConfig, checkpoint: str | None, conversion: Conversion | None = None) -> list[float]:
    """Returns the validation losses before and after training, in nats."""
    L.seed_everything(cfg.seed, verbose=False)
    model = build_model(cfg)
    if checkpoint:
        transfer(model, checkpoint, conversion)
    data = build_data(cfg)
    data.setup("fit")
    fit_statistics(model, data.statistics_batches(), cfg.statistics.hours)
    trainer = make_trainer(cfg, logger=False, enable_progress_bar=False, enable_checkpointing=False)
    losses = [trainer.validate(model, datamodule=data, verbose=False)[0]["val/loss"]]
    if cfg.trainer.max_steps:
        trainer.fit(model, datamodule=data)
        losses += [trainer.validate(model, datamodule=data, verbose=False)[0]["val/loss"]]
    return losses


@without_trace
def main() -> int:
    """Trains a run for each conversion and prints the losses."""
    args = parse()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    fixed = ["name=t", "preset=t", "logger=none", "callbacks=none", f"trainer.max_steps={args.steps}"]
    fixed += [
        f"paths.output_dir={tempfile.mkdtemp(prefix='transfer-')}",
        f"trainer.val_check_interval={max(1, args.steps)}",
    ]
    rows: list[tuple[str, str, Conversion | None]] = [("layer_norm", "from scratch", None)]
    rows += [("frozen_batch_norm", "", Conversion(future_taps=taps)) for taps in FUTURE_TAPS]
    rows += [("layer_norm", b, Conversion(taps, b)) for b, taps in itertools.product(BATCH_NORMS, FUTURE_TAPS)]
    print(f"| conv_norm | batch norm | future taps | loss at step 0 | at step {args.steps} |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    with config_loader(ROOT / "configs") as loader:
        refuse_overrides(args.overrides, loader)
        for norm, name, conversion in rows:
            cfg = compose("train", [*fixed, f"encoder.conv_norm={norm}", *args.overrides])
            losses = run(cfg, args.checkpoint if conversion else None, conversion)
            taps = conversion.future_taps if conversion else ""
            print(f"| {norm} | {name} | {taps} | " + " | ".join(f"{loss:.3f}" for loss in losses) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
