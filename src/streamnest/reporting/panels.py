"""Panels at the start and the end of a run."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import rich
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console, Group
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from streamnest.callbacks.budget import is_consumed
from streamnest.callbacks.gradients import GradientGuard
from streamnest.callbacks.history import ValHistory
from streamnest.callbacks.throughput import Throughput, peak_memory_gb
from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.console.entry_point import continue_command, sync_command
from streamnest.console.terminal import plain, printable, printable_lines
from streamnest.data.datamodule import SpeechDataModule
from streamnest.downstream.base import DownstreamTask
from streamnest.encoder_task import EncoderTask
from streamnest.formatting import causality, count, masking_in_words, milliseconds, speed
from streamnest.loggers.wandb import UnfailingWandbLogger
from streamnest.pretraining import Pretraining
from streamnest.reporting.summary import EndedRun, skipped_by_cause
from streamnest.targets import TeacherQuantizer

_WIDTH = 110
# Reasons that are listed for an outcome, and tensors for a reason.
_MOST = 6
# Terms of the loss by their name in metrics, as a panel calls them.
_TERMS = {"masked": "masked", "unmasked": "unmasked", "next_token": "next frames"}
_BOLD = ("look-ahead", "latency", "below baseline")
Row = tuple[str, str]


@rank_zero_only
def show(panel: Group, console: Console | None = None) -> None:
    """Prints a panel, once for all processes.

    Piped output is wider than rich's 80 columns, so that paths and commands stay on one line.
    """
    console = console or rich.get_console()
    if not console.is_terminal:
        console = Console(file=console.file, width=_WIDTH)
    console.print(panel, width=_WIDTH, crop=False)


def start_panel(cfg: DictConfig, model: EncoderTask, data: SpeechDataModule, trainer: L.Trainer) -> Group:
    """Describes model, latency, data and run; look-ahead and latency are computed from the layers."""
    rows = [*_model_rows(cfg, model), *_task_rows(model)]
    sections = [rows, _latency_rows(model), _data_rows(cfg, model, data), _run_rows(cfg, data, trainer)]
    return _panel(f"streamnest: {cfg.name}", sections)


def config_panel(cfg: DictConfig) -> Group:
    """Shows the composed config as YAML, resolved."""
    shown = OmegaConf.to_yaml(cfg, resolve=True)
    return Group(Syntax(printable_lines(shown), "yaml", theme="ansi_dark", background_color="default", word_wrap=True))


def transfer_panel(transferred: TransferReport) -> Group:
    """Lists the tensors that a run initializes from a checkpoint, and the others, with a line for each reason."""
    changed = ", ".join(f"{name} {then} -> {now}" for name, then, now in transferred.differences)
    sections = [[("weights from", str(_short(transferred.source))), ("architecture", changed or "the same")]]
    for outcome, number in transferred.counts.items():
        reasons = sorted(transferred.grouped(outcome).items(), key=lambda item: -item[1].total())
        rows = [(outcome, f"{number} tensors")]
        rows += [("", f"{names.total()}: {reason}{_named(reason, names)}") for reason, names in reasons[:_MOST]]
        left = sum(names.total() for _, names in reasons[_MOST:])
        sections.append(rows + ([("", f"{left}: other reasons")] if left else []))
    return _panel("initialized from a checkpoint", sections)


def _named(reason: str, names: Counter[str]) -> str:
    """Names the tensors of a reason, except of the one that explains itself."""
    if reason == "same name and shape":
        return ""
    shown = [name.removeprefix("encoder.") for name in list(names)[:_MOST]]
    return f" ({', '.join(shown)}{', ...' if len(names) > _MOST else ''})"


def summary_panel(run: EndedRun) -> Group:
    """Compares validation with the unigram baseline, reports cost and skipped data, and prints the next commands."""
    learned = [_learned_rows(run.model, run.history), _health_rows(run.model, run.history)]
    sections = [*learned, _spent_rows(run.model, run.data, run.trainer, run.seconds)]
    return _panel(f"{run.cfg.name}: step {run.trainer.global_step}", sections, _commands(run))


def _model_rows(cfg: DictConfig, model: EncoderTask) -> list[Row]:
    encoder = model.encoder
    total, trained = _parameters(model), sum(p.numel() for p in model.parameters() if p.requires_grad)
    updated = "all" if trained == total else count(trained)
    return [
        ("encoder", f"{cfg.preset}, {len(encoder.layers)} layers of width {encoder.d_model}"),
        ("parameters", f"{count(total)} ({count(_parameters(encoder))} in the encoder), {updated} trained"),
    ]


def _task_rows(model: EncoderTask) -> list[Row]:
    if isinstance(model, DownstreamTask):
        return [("normalization", model.encoder.normalize), *model.describe()]
    if not isinstance(model, Pretraining):
        return []
    quantizer, normalization = model.quantizer, f"{model.encoder.normalize} (input)"
    teacher = [("teacher", quantizer.in_words())] if isinstance(quantizer, TeacherQuantizer) else []
    return [
        ("normalization", normalization if teacher else f"{normalization}, {model.target_norm.kind} (targets)"),
        ("masking", masking_in_words(model.masking, model.frontend.hop_ms)),
        ("predicted", model.objective.in_words(model.receptive_field_end(model.encoder.context.chunk or 1))),
        *([("dual mode", model.dual_mode.in_words())] if model.dual_mode.active else []),
        *teacher,
        ("codebooks", f"{quantizer.num_codebooks} of {quantizer.num_classes} entries"),
    ]


def _latency_rows(model: EncoderTask) -> list[Row]:
    report = model.latency
    left = milliseconds(report.left_ms) if math.isfinite(report.left_ms) else "unlimited"
    latency = f"{milliseconds(report.latency_mean_ms)} mean, {milliseconds(report.latency_worst_ms)} worst"
    return [
        ("frame stride", milliseconds(report.frame_ms)),
        ("chunk", milliseconds(report.chunk_ms)),
        ("left context", left),
        ("look-ahead", milliseconds(report.lookahead_ms)),
        ("latency", latency if report.streams else "whole utterance"),
        ("causality", causality(model.encoder, report)),
        *_context_rows(model),
    ]


def _context_rows(model: EncoderTask) -> list[Row]:
    """Lists the contexts of a dynamic encoder with the mean latency of each."""
    names = [
        f"{name} ({milliseconds(model.latency.latency_mean_ms) if model.latency.streams else 'offline'})"
        for name in model.encoder.each_context()
        if name is not None
    ]
    return [("contexts", "one sampled per batch: " + ", ".join(names))] if names else []


def _data_rows(cfg: DictConfig, model: EncoderTask, data: SpeechDataModule) -> list[Row]:
    rows = [(f"{name} data", str(data.report[key])) for name, key in (("training", "train"), ("validation", "val"))]
    if cfg.data.get("allow_commands"):
        rows.append(("commands", "in manifests are executed (data.allow_commands=true)"))
    if cfg.data.get("piece_s") is not None:
        rows.append(("pieces", _pieces(data, model)))
    return [*rows, ("noise/voices", _added(cfg.augment.prob)), *_augment_rows(cfg, data)]


def _pieces(data: SpeechDataModule, model: EncoderTask) -> str:
    past = f", past limited to {data.config.piece_left_s:g} s" if model.encoder.context.left is None else ""
    return f"{data.config.piece_s:g} s of {data.config.streams} streams per process, state carried along{past}"


def _augment_rows(cfg: DictConfig, data: SpeechDataModule) -> list[Row]:
    """Describes reverberation and speed perturbation, if they are on."""
    reverb, speeds = cfg.augment.reverb, cfg.augment.speed
    rooms = f"{data.report['rir'].num_cuts} recorded rooms" if "rir" in data.report else "simulated rooms"
    factors = ", ".join(f"{factor:g}" for factor in speeds.factors)
    rows = [("reverberation", reverb.prob, rooms), ("speed change", speeds.prob, f"factors {factors}")]
    return [(name, f"{prob:.0%} of utterances, {what}") for name, prob, what in rows if prob]


def _added(prob: float) -> str:
    return f"added to {prob:.0%} of utterances" if prob else "none"


def _run_rows(cfg: DictConfig, data: SpeechDataModule, trainer: L.Trainer) -> list[Row]:
    devices = trainer.num_devices * trainer.num_nodes
    kind = type(trainer.accelerator).__name__.removesuffix("Accelerator")
    return [
        *_length_rows(cfg, data, trainer, devices),
        ("device", f"{devices} x {kind}, {trainer.precision}"),
        ("written to", str(cfg.paths.output_dir)),
    ]


def _length_rows(cfg: DictConfig, data: SpeechDataModule, trainer: L.Trainer, processes: int) -> list[Row]:
    """Describes the length of a run in steps, hours of audio and epochs; the audio of custom data may be unknown."""
    hours, steps, known = cfg.trainer.get("max_audio_hours"), cfg.trainer.max_steps, hasattr(data, "mean_batch_seconds")
    if hours is None and not (known and trainer.max_steps > 0):
        return [("steps", str(steps) if trainer.max_steps > 0 else f"until {cfg.trainer.max_time}")]
    if hours is None:
        audio = data.mean_batch_seconds(processes) * processes * cfg.trainer.accumulate_grad_batches * steps / 3600
        return [("steps", f"{steps}, about {audio:.3g} h of audio{_epochs(data, audio)}")]
    every = f"; validation every {cfg.trainer.val_check_interval} batches" if cfg.trainer.val_every_hours else ""
    return [("budget", f"{hours:g} h of audio{_epochs(data, hours)}, about {steps} steps{every}")]


def _epochs(data: SpeechDataModule, hours: float) -> str:
    corpus = data.report["train"].hours
    return f", {hours / corpus:.3g} epochs of {corpus:.2f} h" if corpus else ""


def _learned_rows(model: EncoderTask, history: ValHistory) -> list[Row]:
    first, last = history.first, history.last
    if not last:
        return [("validation", "none")]
    if isinstance(model, DownstreamTask):
        return model.learned(first, last)
    rows = [("validation loss", f"{first['val/loss']:.3f} -> {last['val/loss']:.3f} nats")]
    if "val/gain" in last:
        side = "below" if last["val/gain"] >= 0 else "above"
        rows += [
            ("unigram baseline", f"{last['val/unigram']:.3f} nats{_baseline_terms(model, last)}"),
            (f"{side} baseline", f"{abs(last['val/gain']):.2f} nats"),
        ]
    return [*rows, ("accuracy", f"{first['val/accuracy']:.1%} -> {last['val/accuracy']:.1%}")]


def _baseline_terms(model: EncoderTask, last: dict[str, float]) -> str:
    """The unigram baseline of each term of the loss, if there are several: ` (5.21 masked + 5.03 unmasked)`."""
    weights = model.objective.weights if isinstance(model, Pretraining) else {}
    if len(weights) < 2 or any(f"val/gain_{term}" not in last for term in weights):
        return ""
    terms = [
        f"{'' if weight == 1 else f'{weight:g} x '}{last[f'val/loss_{term}'] + last[f'val/gain_{term}']:.2f} "
        f"{_TERMS.get(term, term)}"
        for term, weight in weights.items()
    ]
    return f" ({' + '.join(terms)})"


def _health_rows(model: EncoderTask, history: ValHistory) -> list[Row]:
    last = history.last
    if not isinstance(model, Pretraining) or "val/perplexity" not in last:
        return []
    codes = (
        f"{last['val/codes_used']:.0f} of {model.quantizer.num_classes} used, perplexity {last['val/perplexity']:.0f}"
    )
    cache = model.quantizer.cache if isinstance(model.quantizer, TeacherQuantizer) else None
    cached = [("teacher codes", cache.summary())] if cache else []
    return [("codes", codes), *cached, ("effective rank", f"{last['val/rank']:.1f} of {model.encoder.d_model}")]


def _spent_rows(model: EncoderTask, data: SpeechDataModule, trainer: L.Trainer, seconds: float) -> list[Row]:
    skipped = skipped_by_cause(data)
    checkpoint = _checkpoint(trainer)
    return [
        ("audio seen", _audio_seen(model)),
        ("wall time", _duration(seconds)),
        ("peak memory", f"{peak_memory_gb(model.device):.1f} GB"),
        *_speed_rows(trainer),
        *_skipped_steps(trainer),
        ("skipped utterances", ", ".join(f"{n} {cause}" for cause, n in sorted(skipped.items())) or "none"),
        ("checkpoint", str(checkpoint) if checkpoint else "none"),
        *[("W&B", problem) for logger in trainer.loggers for problem in getattr(logger, "problems", ())],
    ]


def _audio_seen(model: EncoderTask) -> str:
    budget = model.max_audio_hours
    return f"{model.hours_seen:.2f} h" + (f" of {budget:g} h" if budget is not None else "")


def _speed_rows(trainer: L.Trainer) -> list[Row]:
    totals = [c.total for c in getattr(trainer, "callbacks", ()) if isinstance(c, Throughput) and c.total.wall]
    return [
        ("speed", f"{speed(t.audio / t.wall)} per process, {t.waited / t.wall:.1%} of the time waiting for data")
        for t in totals
    ]


def _skipped_steps(trainer: L.Trainer) -> list[Row]:
    """Counts updates that were skipped because of their gradient, if there were any."""
    guards = [c for c in getattr(trainer, "callbacks", ()) if isinstance(c, GradientGuard) and c.skipped]
    return [("skipped steps", f"{guard.skipped}, with a gradient that spikes or is not finite") for guard in guards]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _commands(run: EndedRun) -> list[Row]:
    checkpoint, commands = _checkpoint(run.trainer), []
    if checkpoint:
        commands.append(("continue", continue_command(checkpoint, _longer(run))))
    for logger in run.trainer.loggers:
        if isinstance(logger, UnfailingWandbLogger) and logger.must_be_synced:
            commands.append(("upload to W&B", sync_command(logger.folder)))
    return commands


def _longer(run: EndedRun) -> str | None:
    """Returns the override that doubles the length of a run; None if the run has not reached its length."""
    hours, steps = run.cfg.trainer.get("max_audio_hours"), run.trainer.max_steps
    if hours is not None:
        return f"trainer.max_audio_hours={2 * hours:g}" if is_consumed(run.model, hours) else None
    return f"trainer.max_steps={2 * steps}" if 0 < steps <= run.trainer.global_step else None


def _checkpoint(trainer: L.Trainer) -> Path | None:
    callback = trainer.checkpoint_callback
    last = Path(getattr(callback, "dirpath", None) or ".") / "last.ckpt"
    best = getattr(callback, "best_model_path", "")
    return _short(last) if last.is_file() else _short(Path(best)) if best else None


def _short(path: Path) -> Path:
    """Returns the path relative to the working folder, if it lies in it."""
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
            table.add_row(plain(name), plain(value, "bold" if name in _BOLD else ""))
    parts: list[Any] = [Panel(table, title=plain(title, "bold"), title_align="left", border_style="cyan")]
    # Outside the frame, so that they can be copied.
    for name, command in commands or []:
        parts += [Text(f"{name}:", style="cyan"), Text(f"  {printable(command)}", no_wrap=True, overflow="ignore")]
    return Group(*parts)
