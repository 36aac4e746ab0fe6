"""Prints the training cost of a run, or per second of audio by model size and frame stride: `streamnest flops`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig
from rich.console import Console
from rich.markdown import Markdown

from streamnest.commands.arguments.flops import SIZES, parse
from streamnest.config.compose import compose_config
from streamnest.console.entry_point import without_trace
from streamnest.encoder import EncoderConfig
from streamnest.errors import UserError
from streamnest.flops import (
    SHARD_GB,
    PlannedRun,
    TrainingCost,
    code_bytes,
    device_hours,
    predicted_share,
    training_cost,
)
from streamnest.locations import config_folder

HEADER = (
    "| size | stride | parameters | forward | backward | GFLOPs per audio s | audio h per GPU-hour | checkpoint |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def run_cost(cfg: DictConfig, seconds: float) -> TrainingCost:
    """Counts the operations of a config: encoder and heads of pretraining, encoder and output layer of other tasks."""
    settings = EncoderConfig(**{key: value for key, value in cfg.encoder.items() if key != "_target_"})
    if cfg.task.name != "pretrain":
        return training_cost(settings, cfg.task.get("vocab_size", 1), 1, seconds, masked=1.0)
    masking, objective = instantiate(cfg.masking), instantiate(cfg.objective)
    masked = predicted_share(masking, objective, settings.subsampling_factor, seconds)
    return training_cost(settings, cfg.quantizer.num_classes, cfg.quantizer.num_codebooks, seconds, masked)


def row(cfg: DictConfig, size: str, args: argparse.Namespace) -> str:
    """Returns one line of the table of sizes."""
    cost = run_cost(cfg, args.seconds)
    cells = (
        f"`{size}`",
        f"{_frame_ms(cfg):.0f} ms",
        f"{cost.parameters / 1e6:.1f}M",
        *(f"{value / 1e9:.3g}" for value in (cost.forward, cost.backward, cost.total)),
        f"{args.peak_tflops * 1e12 * args.mfu / cost.total:,.0f}",
        f"{cost.checkpoint_gb:.2f} GB",
    )
    return f"| {' | '.join(cells)} |"


def size_table(args: argparse.Namespace) -> str:
    """Returns the Markdown table of sizes and strides."""
    lines, overrides = [HEADER], list(args.overrides)
    # Not every frame stride divides the look-ahead of the default preset.
    if not any(word.startswith(("encoder=", "experiment=")) for word in overrides):
        overrides.append("encoder=causal")
    for size in args.sizes or SIZES:
        for factor in args.factors:
            words = [f"size={size}", f"encoder.subsampling_factor={factor}", *overrides]
            lines.append(row(compose_config(words, config_folder(), "flops"), size, args))
    return "\n".join([*lines, "", _note(args)])


def run_table(args: argparse.Namespace) -> str:
    """Returns the Markdown table of the run that the overrides describe."""
    cfg = compose_config(list(args.overrides), config_folder(), "flops")
    cost = run_cost(cfg, args.seconds)
    devices, batches = _devices(cfg), cfg.trainer.accumulate_grad_batches
    run = PlannedRun(cost, cfg.trainer.max_steps, devices, cfg.data.batch_duration * batches)
    hours = device_hours(run.flops, args.peak_tflops, args.mfu)
    rows = [
        ("parameters", f"{cost.parameters / 1e6:.1f}M, {cost.checkpoint_gb:.2f} GB per checkpoint"),
        (
            "GFLOPs per audio s",
            f"{cost.total / 1e9:.3g}: {cost.forward / 1e9:.3g} forward, {cost.backward / 1e9:.3g} backward",
        ),
        ("audio per step", f"{run.step_hours:.3g} h: {devices} devices x {run.batch_seconds:g} s"),
        ("audio consumed", f"{run.hours:,.0f} h in {run.steps:,} steps"),
        ("FLOPs of the run", f"{run.flops:.2e}"),
        ("GPU-hours", f"{_short(hours)}, {_short(hours / devices)} h on {devices} devices"),
        *(_corpus_rows(cfg, run, args) if args.hours else []),
    ]
    lines = ["| quantity | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join([*lines, "", _note(args), *_left_out(cfg)])


def _corpus_rows(cfg: DictConfig, run: PlannedRun, args: argparse.Namespace) -> list[tuple[str, str]]:
    """Returns what depends on the size of the corpus: passes, disk, and the cost of a teacher's targets."""
    shards = ", ".join(f"{gb * args.hours:,.0f} GB as {name}" for name, gb in SHARD_GB.items())
    rows = [("passes", f"{run.hours / args.hours:,.1f} over {args.hours:,.0f} h"), ("shards", shards)]
    if cfg.task.name != "pretrain":
        return rows
    settings = cfg.quantizer
    once = device_hours(run.cost.forward * args.hours * 3600, args.peak_tflops, args.mfu)
    size = code_bytes(_frame_ms(cfg), settings.num_classes, settings.num_codebooks)
    return [
        *rows,
        (
            "teacher of this size",
            f"{_short(once)} GPU-hours if codes are stored, {_short(once * run.hours / args.hours)} if not",
        ),
        ("stored codes", f"{size / 1e3:,.0f} kB per hour, {size * args.hours / 1e9:,.2f} GB"),
    ]


def _devices(cfg: DictConfig) -> int:
    """Returns the number of processes of a run.

    Raises:
        UserError: if it depends on the machine.
    """
    devices = cfg.trainer.devices
    count = len(devices) if isinstance(devices, ListConfig) else int(devices) if str(devices).isdecimal() else 0
    if count < 1:
        raise UserError(f"trainer.devices={devices} depends on the machine: give a number, as trainer.devices=8")
    return count * int(cfg.trainer.num_nodes)


def _frame_ms(cfg: DictConfig) -> float:
    return float(cfg.encoder.hop_ms * cfg.encoder.subsampling_factor)


def _short(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"


def _note(args: argparse.Namespace) -> str:
    return f"Utterances of {args.seconds:g} s; {args.mfu:.0%} of {args.peak_tflops:g} TFLOP/s assumed, not measured."


def _left_out(cfg: DictConfig) -> list[str]:
    """Returns sentences on arithmetic that was not counted, if there is any."""
    text = "Without prediction network and joiner, whose cost grows with the texts."
    sentences = [text] if cfg.task.name == "rnnt" else []
    if cfg.task.dual_mode.offline_weight > 0:
        sentences.append("Without the offline branch of task.dual_mode, which costs as much again.")
    elif cfg.task.dual_mode.distillation_weight > 0:
        sentences.append("Without the offline branch of task.dual_mode, which costs one more forward pass.")
    return sentences


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table, formatted on a terminal and as Markdown otherwise."""
    args = parse(argv)
    is_run = any(word.startswith(("experiment=", "trainer.max_steps=")) for word in args.overrides)
    text = run_table(args) if is_run and not args.sizes else size_table(args)
    Console().print(Markdown(text)) if sys.stdout.isatty() else print(text)
    return 0
