"""What is said before and after a run."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import rich
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from streamnest.callbacks.history import ValHistory
from streamnest.callbacks.throughput import Throughput, peak_memory_gb
from streamnest.checkpoint.outcomes import TransferReport
from streamnest.console.entry_point import continue_command, sync_command
from streamnest.console.terminal import plain, printable
from streamnest.data.datamodule import SpeechDataModule
from streamnest.downstream.base import DownstreamTask
from streamnest.encoder_task import EncoderTask
from streamnest.formatting import causality, count, masking_in_words, milliseconds
from streamnest.loggers.wandb import UnfailingWandbLogger
from streamnest.pretraining import Pretraining
from streamnest.reporting.summary import EndedRun, skipped_by_cause

_WIDTH = 110
# Of the reasons for an outcome, and of the names behind a reason.
_MOST = 6
Row = tuple[str, str]


@rank_zero_only
def show(panel: Group, console: Console | None = None) -> None:
    """Prints a panel, once for all processes.

    It is wider than rich's 80 columns where output is piped, so that paths and commands stay whole.
    """
    console = console or rich.get_console()
    if not console.is_terminal:
        console = Console(file=console.file, width=_WIDTH)
    console.print(panel, width=_WIDTH, crop=False)


def start_panel(cfg: DictConfig, model: EncoderTask, data: SpeechDataModule, trainer: L.Trainer) -> Group:
    """What is about to be trained, on what, and what it will wait for; look-ahead and latency are computed."""
    rows = [*_model_rows(cfg, model), *_task_rows(model)]
    sections = [rows, _latency_rows(model), _data_rows(cfg, model, data), _run_rows(cfg, trainer)]
    return _panel(f"streamnest: {cfg.name}", sections)


def transfer_panel(transferred: TransferReport) -> Group:
    """What a run took over from a checkpoint, what not, and why; a line for each reason."""
    changed = ", ".join(f"{name} {then} -> {now}" for name, then, now in transferred.differences)
    sections = [[("weights of", str(_short(transferred.source))), ("architecture", changed or "the same")]]
    for outcome, number in transferred.counts.items():
        reasons = sorted(transferred.grouped(outcome).items(), key=lambda item: -item[1].total())
        rows = [(outcome, f"{number} tensors")]
        rows += [("", f"{names.total()}: {reason}{_named(reason, names)}") for reason, names in reasons[:_MOST]]
        left = sum(names.total() for _, names in reasons[_MOST:])
        sections.append(rows + ([("", f"{left}: for further reasons")] if left else []))
    return _panel("taken over", sections)


def _named(reason: str, names: Counter[str]) -> str:
    """The tensors behind a reason, but for the one that needs none."""
    if reason == "same name and shape":
        return ""
    shown = [name.removeprefix("encoder.") for name in list(names)[:_MOST]]
    return f" ({', '.join(shown)}{', ...' if len(names) > _MOST else ''})"


def summary_panel(run: EndedRun) -> Group:
    """What was learned, against what code frequencies alone would reach, and how to go on."""
    learned = [_learned_rows(run.model, run.history), _health_rows(run.model, run.history)]
    sections = [*learned, _spent_rows(run.model, run.data, run.trainer, run.seconds)]
    return _panel(f"{run.cfg.name}: step {run.trainer.global_step}", sections, _commands(run.trainer))


def _model_rows(cfg: DictConfig, model: EncoderTask) -> list[Row]:
    encoder = model.encoder
    total, trained = _parameters(model), sum(p.numel() for p in model.parameters() if p.requires_grad)
    return [
        ("encoder", f"{cfg.preset}, {len(encoder.layers)} layers of width {encoder.d_model}"),
        ("parameters", f"{count(total)}, {count(trained)} trained, {count(_parameters(encoder))} in the encoder"),
    ]


def _task_rows(model: EncoderTask) -> list[Row]:
    if isinstance(model, DownstreamTask):
        return [("normalisation", model.encoder.normalize), *model.describe()]
    if not isinstance(model, Pretraining):
        return []
    return [
        ("normalisation", f"{model.encoder.normalize} (input), {model.target_norm.kind} (targets)"),
        ("masking", masking_in_words(model.masking, model.frontend.hop_ms)),
        ("predicted", model.objective.in_words(model.receptive_field_end(model.encoder.context.chunk or 1))),
        ("codes", f"{model.quantizer.num_codebooks} x {model.quantizer.num_classes}"),
    ]


def _latency_rows(model: EncoderTask) -> list[Row]:
    report = model.latency
    left = milliseconds(report.left_ms) if math.isfinite(report.left_ms) else "all of the past"
    latency = f"{milliseconds(report.latency_mean_ms)} mean, {milliseconds(report.latency_worst_ms)} worst"
    return [
        ("frame stride", milliseconds(report.frame_ms)),
        ("chunk", milliseconds(report.chunk_ms)),
        ("left context", left),
        ("look-ahead", milliseconds(report.lookahead_ms)),
        ("latency", latency if report.streams else "whole utterance"),
        ("causal", causality(model.encoder, report)),
        *_context_rows(model),
    ]


def _context_rows(model: EncoderTask) -> list[Row]:
    """The contexts of a dynamic encoder and the mean latency of each."""
    names = [
        f"{name} ({milliseconds(model.latency.latency_mean_ms) if model.latency.streams else 'offline'})"
        for name in model.encoder.each_context()
        if name is not None
    ]
    return [("drawn per batch", ", ".join(names))] if names else []


def _data_rows(cfg: DictConfig, model: EncoderTask, data: SpeechDataModule) -> list[Row]:
    rows = [(f"{name} data", str(data.report[key])) for name, key in (("training", "train"), ("validation", "val"))]
    if cfg.data.get("allow_commands"):
        rows.append(("commands", "run where manifests name them (data.allow_commands=true)"))
    return [*rows, ("audio mixed in", _share(cfg.augment.prob)), *_augment_rows(cfg, data)]


def _augment_rows(cfg: DictConfig, data: SpeechDataModule) -> list[Row]:
    """Rooms and speed, where they are on."""
    reverb, speed = cfg.augment.reverb, cfg.augment.speed
    rooms = f"{data.report['rir'].num_cuts} recorded rooms" if "rir" in data.report else "simulated rooms"
    rows = [
        ("reverberation", reverb.prob, rooms),
        ("speed perturbed", speed.prob, "by " + ", ".join(f"{factor:g}" for factor in speed.factors)),
    ]
    return [(name, f"{_share(prob)}, {what}") for name, prob, what in rows if prob]


def _share(prob: float) -> str:
    return f"{prob:.0%} of utterances" if prob else "none"


def _run_rows(cfg: DictConfig, trainer: L.Trainer) -> list[Row]:
    devices = trainer.num_devices * trainer.num_nodes
    kind = type(trainer.accelerator).__name__.removesuffix("Accelerator")
    return [
        ("steps", str(trainer.max_steps) if trainer.max_steps > 0 else f"until {cfg.trainer.max_time}"),
        ("device", f"{devices} x {kind}, {trainer.precision}"),
        ("written to", str(cfg.paths.output_dir)),
    ]


def _learned_rows(model: EncoderTask, history: ValHistory) -> list[Row]:
    first, last = history.first, history.last
    if not last:
        return [("validation", "never ran")]
    if isinstance(model, DownstreamTask):
        return model.learned(first, last)
    rows = [("validation loss", f"{first['val/loss']:.3f} -> {last['val/loss']:.3f} nats")]
    if "val/gain" in last:
        better = "below" if last["val/gain"] >= 0 else "above"
        rows += [
            ("code frequencies", f"{last['val/unigram']:.3f} nats would be reached by those of the training set alone"),
            ("gain", f"{abs(last['val/gain']):.3f} nats {better} that"),
            ("target entropy", f"{math.log(last['val/perplexity']):.3f} nats of the validation codes themselves"),
        ]
    return [*rows, ("accuracy", f"{first['val/accuracy']:.1%} -> {last['val/accuracy']:.1%}")]


def _health_rows(model: EncoderTask, history: ValHistory) -> list[Row]:
    last = history.last
    if not isinstance(model, Pretraining) or "val/perplexity" not in last:
        return []
    codes = (
        f"{last['val/codes_used']:.0f} of {model.quantizer.num_classes} used, perplexity {last['val/perplexity']:.0f}"
    )
    return [("codes", codes), ("effective rank", f"{last['val/rank']:.1f} of {model.encoder.d_model}")]


def _spent_rows(model: EncoderTask, data: SpeechDataModule, trainer: L.Trainer, seconds: float) -> list[Row]:
    skipped = skipped_by_cause(data)
    checkpoint = _checkpoint(trainer)
    return [
        ("heard", f"{float(model.get_buffer('seconds_seen')) / 3600:.2f} h of audio"),
        ("took", f"{int(seconds) // 60} min {int(seconds) % 60} s, {peak_memory_gb(model.device):.1f} GB at most"),
        *_speed_rows(trainer),
        ("skipped", ", ".join(f"{n} {cause}" for cause, n in sorted(skipped.items())) or "nothing"),
        ("checkpoint", str(checkpoint) if checkpoint else "none was written"),
        *[("W&B", problem) for logger in trainer.loggers for problem in getattr(logger, "problems", ())],
    ]


def _speed_rows(trainer: L.Trainer) -> list[Row]:
    totals = [c.total for c in getattr(trainer, "callbacks", ()) if isinstance(c, Throughput) and c.total.wall]
    return [
        (
            "speed",
            f"{t.audio / t.wall:.0f} h of audio an hour and process, {t.waited / t.wall:.1%} of it waiting for data",
        )
        for t in totals
    ]


def _commands(trainer: L.Trainer) -> list[Row]:
    checkpoint, commands = _checkpoint(trainer), []
    if checkpoint:
        more = 2 * trainer.max_steps if trainer.max_steps > 0 and trainer.global_step >= trainer.max_steps else None
        commands.append(("continue", continue_command(checkpoint, more)))
    for logger in trainer.loggers:
        if isinstance(logger, UnfailingWandbLogger) and logger.must_be_synced:
            commands.append(("upload to W&B", sync_command(logger.folder)))
    return commands


def _checkpoint(trainer: L.Trainer) -> Path | None:
    callback = trainer.checkpoint_callback
    last = Path(getattr(callback, "dirpath", None) or ".") / "last.ckpt"
    best = getattr(callback, "best_model_path", "")
    return _short(last) if last.is_file() else _short(Path(best)) if best else None


def _short(path: Path) -> Path:
    """Relative to where the command was typed, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _parameters(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def _panel(title: str, sections: list[list[Row]], commands: list[Row] | None = None) -> Group:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for number, rows in enumerate(section for section in sections if section):
        if number:
            table.add_row()
        for name, value in rows:
            table.add_row(plain(name), plain(value, "bold" if name in ("look-ahead", "latency", "gain") else ""))
    parts: list[Any] = [Panel(table, title=plain(title, "bold"), title_align="left", border_style="cyan")]
    # Outside the frame, so that they can be copied.
    for name, command in commands or []:
        parts += [Text(f"{name}:", style="cyan"), Text(f"  {printable(command)}", no_wrap=True, overflow="ignore")]
    return Group(*parts)
