"""Compares training in pieces with training on utterances: quality by minute of a long recording, and memory.

`python benchmarks/long_recordings.py` trains each preset twice on the same speech: on utterances, and in pieces of
recordings that are made by joining the utterances (`data.piece_s`). Both models then encode one long recording as a
stream. It repeats the unseen utterances in blocks, each in another order, so that its parts differ in time only. The
second table has the resident peak of training steps against the length of the recordings.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import THREADS

ROOT = Path(__file__).resolve().parents[1]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/long_recordings.py", __doc__)
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="config overrides such as size.d_model=64, first"
    )
    parser.add_argument("--presets", nargs="+", default=["limited3200", "causal"], help="encoder presets to train")
    parser.add_argument("--hours", type=float, default=1.0, help="audio that each model consumes; 0: only memory")
    parser.add_argument("--piece-s", type=float, default=8.0, help="seconds of a piece")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the test recording")
    parser.add_argument("--part", type=float, default=10.0, help="minutes of the test recording per column")
    parser.add_argument(
        "--memory", type=float, nargs="*", default=[1, 10, 60], help="recordings in minutes; none: skip"
    )
    parser.add_argument("--most-whole", type=float, default=1.0, help="longest recording in minutes in one pass")
    parser.add_argument("--corpus", type=Path, default=ROOT / "data/sample16k", help="folder with cut manifests")
    parser.add_argument("--threads", type=THREADS, default=1, help="CPU threads")
    parser.add_argument("--memory-of", nargs=2, metavar=("MANIFEST", "SETTING"), help=argparse.SUPPRESS)
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("STREAMNEST_ROOT", str(ROOT))

import lightning as L
import numpy as np
import soundfile
import torch
from hydra import compose
from lhotse import Recording
from omegaconf import DictConfig
from rich.table import Table

from streamnest.build import build_data, build_model
from streamnest.config.compose import config_loader
from streamnest.console.entry_point import without_trace
from streamnest.console.overrides import refuse_overrides
from streamnest.console.terminal import terminal
from streamnest.corpus_statistics import fit_statistics
from streamnest.data.audio import SAMPLING_RATE, load_mono
from streamnest.data.manifest import load_cuts
from streamnest.data.piece_dataset import PieceDataset
from streamnest.data.sampling.piece_sampler import Piece, PieceIndex
from streamnest.pretraining import Pretraining
from streamnest.training.budget import make_trainer, with_audio_budget
from streamnest.training.piece_checks import check_pieces

# Minutes of the recordings that the training utterances are joined to.
_JOINED = 10.0


def join(manifest: Path, target: Path, minutes: float, repeat: bool = False) -> Path:
    """Joins utterances to recordings of some minutes, and writes their manifest.

    Args:
        manifest: cut manifest of the utterances.
        target: folder of the recordings.
        minutes: length of a recording.
        repeat: make one recording in which the utterances repeat, each time in another order, instead of several.
    """
    target.mkdir()
    utterances, rng = [load_mono(cut) for cut in load_cuts(manifest)[0]], np.random.default_rng(0)
    repeats = int(60 * minutes * SAMPLING_RATE / sum(map(len, utterances))) + 1 if repeat else 1
    audio = np.concatenate([utterances[i] for _ in range(repeats) for i in rng.permutation(len(utterances))])
    size, lines = round(60 * minutes * SAMPLING_RATE), []
    for number, start in enumerate(range(0, size if repeat else len(audio), size)):
        path = target / f"{number}.wav"
        soundfile.write(path, audio[start : start + size], SAMPLING_RATE)
        cut = Recording.from_file(path).to_cut()
        lines.append(json.dumps(cut.to_dict()) + "\n")
    (target / "cuts.jsonl").write_text("".join(lines), encoding="utf-8")
    return target / "cuts.jsonl"


def trained(cfg: DictConfig) -> Pretraining:
    """Trains a model without validation."""
    L.seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg)
    cfg = with_audio_budget(cfg, data)
    model = build_model(cfg)
    check_pieces(cfg, model)
    data.setup("fit")
    fit_statistics(model, data.statistics_batches(), cfg.statistics.hours)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    arguments: dict[str, Any] = {**quiet, "limit_val_batches": 0}
    make_trainer(cfg, **arguments).fit(model, datamodule=data)
    fitted: Pretraining = model.eval()
    return fitted


@torch.no_grad()
def streamed(model: Pretraining, manifest: Path, piece_s: float) -> Iterator[tuple[float, float, int]]:
    """Yields nats, correct predictions and predictions of masked frames, by piece of one recording in one stream."""
    cuts, _ = load_cuts(manifest, max_duration=1e6)
    dataset, model.carried = PieceDataset(cuts, round(piece_s * SAMPLING_RATE)), None
    count = int(cuts[0].duration / piece_s)
    for number in range(count):
        piece = Piece(0, number, first=number == 0, last=number == count - 1)
        results, _ = model.predict(dataset[PieceIndex(number, [piece])], number)
        result = results["masked"]
        yield float(result.loss_sum), float(result.correct), result.count


def by_part(model: Pretraining, manifest: Path, args: argparse.Namespace) -> list[str]:
    """Returns nats and accuracy of masked frames for each part of the recording."""
    values = np.array(list(streamed(model, manifest, args.piece_s)))
    parts = (np.arange(len(values)) * args.piece_s / (60 * args.part)).astype(int)
    sums = [values[parts == part].sum(0) for part in range(parts.max() + 1)]
    return [f"{loss / count:.3f} ({correct / count:.1%})" for loss, correct, count in sums]


def quality(args: argparse.Namespace, folder: Path) -> None:
    """Trains each preset on utterances and in pieces, and prints a row for each model."""
    long = join(args.corpus / "cuts_dev.jsonl", folder / "test", args.minutes, repeat=True)
    joined = join(args.corpus / "cuts_train.jsonl", folder / "train", _JOINED)
    columns = [f"to {args.part * (i + 1):g} min" for i in range(int(np.ceil(args.minutes / args.part)))]
    table = Table("encoder", "trained on", *columns, title="masked frames of one stream: nats (accuracy)")
    pieces = {"utterances": [], "pieces": [f"data.train_manifest={joined}", f"data.piece_s={args.piece_s:g}"]}
    for preset in args.presets:
        for name, overrides in pieces.items():
            cfg = composed([f"encoder={preset}", f"trainer.max_audio_hours={args.hours}", *overrides, *args.overrides])
            cells = by_part(trained(cfg), long, args)
            print(preset, name, *cells, flush=True)
            table.add_row(preset, name, *cells)
    terminal().print(table)


def composed(overrides: Sequence[str]) -> DictConfig:
    """Composes the config of a run that writes nothing."""
    fixed = ["name=t", "preset=t", "logger=none", "callbacks=none", "paths.output_dir=.", "augment=none"]
    fixed += ["data.val_manifest=null", "trainer.val_check_interval=100000", "data.batch_duration=32"]
    with config_loader(ROOT / "configs") as loader:
        refuse_overrides(overrides, loader)
        return compose("train", [*fixed, *overrides])


def memory(args: argparse.Namespace, folder: Path) -> None:
    """Prints the resident peak of training steps on recordings of each length, in pieces and in one pass."""
    table = Table("recordings", "in pieces", "in one pass", title="resident peak of training, GB (limited3200)")
    for minutes in args.memory:
        manifest = join(args.corpus / "cuts_dev.jsonl", folder / f"{minutes:g}", minutes, repeat=True)
        whole = f"{peak(args, manifest, 'whole'):.2f}" if minutes <= args.most_whole else ""
        table.add_row(f"{minutes:g} min", f"{peak(args, manifest, 'pieces'):.2f}", whole)
    terminal().print(table)


def peak(args: argparse.Namespace, manifest: Path, setting: str) -> float:
    """Returns the resident peak of training steps in a process of its own, in gigabytes."""
    options = ["--piece-s", str(args.piece_s), "--threads", str(args.threads), "--memory-of", str(manifest), setting]
    command = [sys.executable, __file__, *args.overrides, *options]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak(args: argparse.Namespace) -> None:
    """Trains some steps and prints the resident peak, as the child of `peak`."""
    manifest, setting = args.memory_of
    # One row in both cases: it holds a piece, or the whole recording.
    sizes = {"pieces": (args.piece_s, f"data.piece_s={args.piece_s:g}"), "whole": (1e5, "data.max_duration=100000")}
    seconds, override = sizes[setting]
    lengths = [f"data.batch_duration={seconds:g}", override, "statistics.hours=0.001", "trainer.max_steps=8"]
    trained(composed(["encoder=limited3200", f"data.train_manifest={manifest}", *lengths, *args.overrides]))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1e6)


@without_trace
def main() -> int:
    """Prints both tables."""
    args = parse()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if args.memory_of:
        print_peak(args)
        return 0
    with tempfile.TemporaryDirectory(prefix="long-recordings-") as folder:
        if args.hours:
            quality(args, Path(folder))
        if args.memory:
            memory(args, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
