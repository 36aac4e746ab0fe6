"""Measures the speed of the loader, and how long training waits for it: `python benchmarks/loader.py`.

The built-in corpus is read from files and from shards, by the training process and by workers: first alone at full
speed, then while the model of benchmarks/training_step.py trains.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import THREADS

FORMS = ["files, ogg", "files, flac", "shards, flac", "shards, opus"]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/loader.py", __doc__)
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 1, 2], help="loader processes; 0 is the training process"
    )
    parser.add_argument("--steps", type=int, default=10, help="training steps counted per cell; 0 leaves training out")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of reading per cell")
    parser.add_argument("--threads", type=THREADS, default=2, help="CPU threads of the training process")
    parser.add_argument("--forms", nargs="+", metavar="FORM", default=FORMS, choices=FORMS, help=f"of {FORMS}")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import json
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import soundfile
import torch
from hydra import compose, initialize_config_dir
from lhotse import Recording
from omegaconf import DictConfig
from rich.table import Table

from streamnest.build import build_data, build_model
from streamnest.callbacks import Throughput
from streamnest.config import schema as config
from streamnest.console.terminal import terminal
from streamnest.data.audio import load_mono
from streamnest.data.datamodule import SpeechDataModule
from streamnest.data.manifest import load_cuts
from streamnest.data.shards.plan import make_plan
from streamnest.data.shards.writing import write_shards
from streamnest.training.budget import make_trainer

ROOT = Path(__file__).resolve().parents[1]
# Model of benchmarks/training_step.py: d 256, 8 layers, 4 heads, 8192 codes, 8x; 64 s per batch, half of it with noise.
MODEL = (
    "encoder=causal",
    "encoder.subsampling_factor=8",
    "size.d_model=256",
    "size.num_layers=8",
    "size.num_heads=4",
    "size.subsampling_channels=256",
    "quantizer=nest",
    "objective.unmasked_weight=0",
)
FIXED = ("name=benchmark", "preset=causal", "logger=none", "callbacks=none", "paths.output_dir=.", "trainer=cpu")


def make_corpora(folder: Path, names: list[str]) -> dict[str, str]:
    """Writes the training set of the built-in corpus in each of the forms; returns their manifests by name."""
    manifest = ROOT / "data/sample16k/cuts_train.jsonl"
    cuts, _ = load_cuts(manifest, max_duration=3600)
    made = {"files, ogg": str(manifest)}
    if "files, flac" in names:
        made["files, flac"] = _as_flac(cuts, folder / "files")
    for form in ("flac", "opus"):
        if f"shards, {form}" in names:
            made[f"shards, {form}"] = str(folder / form)
            write_shards(cuts, str(folder / form), make_plan(cuts, form, 100))
    return {name: made[name] for name in names}


def _as_flac(cuts: Any, folder: Path) -> str:
    folder.mkdir()
    for cut in cuts:
        soundfile.write(folder / f"{cut.id.replace('/', '_')}.flac", load_mono(cut), 16000)
    recordings = map(Recording.from_file, sorted(folder.glob("*.flac")))
    lines = [json.dumps(recording.to_cut().to_dict()) + "\n" for recording in recordings]
    (folder / "cuts.jsonl").write_text("".join(lines), encoding="utf-8")
    return str(folder / "cuts.jsonl")


def settings(manifest: str, workers: int, steps: int) -> DictConfig:
    """Returns the config of a run on a corpus."""
    data = ("data.cache_mb=0", f"data.num_workers={workers}", "data.batch_duration=64", f"data.num_batches={steps}")
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", [*FIXED, *MODEL, *data, f"trainer.max_steps={steps}"])
    cfg.data.train_manifest, cfg.data.val_manifest = manifest, None
    return cfg


def make_data(cfg: DictConfig) -> SpeechDataModule:
    """Returns the data module of a run, with its noise."""
    data = build_data(cfg)
    data.setup("fit")
    return data


def read(manifest: str, workers: int, seconds: float) -> float:
    """Measures the hours of audio per hour of a loader that runs alone, after an uncounted start."""
    loader = iter(make_data(settings(manifest, workers, 10**6)).train_dataloader())
    for _ in range(2 + 4 * workers):  # batches that workers have prefetched do not count
        next(loader)
    audio, begin = 0.0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds:
        audio += next(loader).seconds
    return audio / passed


def wait(manifest: str, workers: int, steps: int) -> tuple[float, float]:
    """Measures the share of a training step spent waiting for data, and the seconds of a step."""
    L.seed_everything(0, verbose=False)
    warmup = 2
    cfg = settings(manifest, workers, steps + warmup)
    model, data, speed = build_model(cfg), make_data(cfg), Throughput(warmup=warmup)
    for norm in (model.input_norm, model.target_norm):
        norm.set_statistics(torch.full((80,), -8.0), torch.full((80,), 3.0))
    trainer = make_trainer(cfg, [speed], logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(model, datamodule=data)
    return speed.total.waited / speed.total.wall, speed.total.wall / steps


def main() -> None:
    """Measures reading and waiting, and prints both tables."""
    args = parse()
    torch.set_num_threads(args.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    config.register()
    with tempfile.TemporaryDirectory() as folder:
        corpora = make_corpora(Path(folder), args.forms)
        show(corpora, args)


def show(corpora: dict[str, str], args: argparse.Namespace) -> None:
    """Prints both tables."""
    names = [f"{count} worker{'s' * (count > 1)}" if count else "no worker" for count in args.workers]
    reading = Table("hours of audio per hour and loading process", *names)
    waiting = Table(f"waiting for data, share of a step ({args.threads} threads)", *names)
    for name, manifest in corpora.items():
        rates = [read(manifest, workers, args.seconds) / max(1, workers) for workers in args.workers]
        reading.add_row(name, *(f"{rate:,.0f}" for rate in rates))
        if args.steps:
            cells = [wait(manifest, workers, args.steps) for workers in args.workers]
            waiting.add_row(name, *(f"{share:.2%} of {seconds:.2f} s" for share, seconds in cells))
    console = terminal(100)
    for table in (reading, waiting) if args.steps else (reading,):
        console.print(table)


if __name__ == "__main__":
    main()
