"""The panel at the end of a run: quality, cost and the next commands."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from rich.console import Group

from streamnest.callbacks.budget import is_consumed
from streamnest.callbacks.gradients import GradientGuard
from streamnest.callbacks.history import ValHistory
from streamnest.callbacks.throughput import Throughput, peak_memory_gb
from streamnest.console.entry_point import continue_command, sync_command
from streamnest.data.datamodule import SpeechDataModule
from streamnest.downstream.base import DownstreamTask
from streamnest.encoder_task import EncoderTask
from streamnest.formatting import speed
from streamnest.loggers.wandb import UnfailingWandbLogger
from streamnest.pretraining import Pretraining
from streamnest.reporting.panels import Row, panel, short_path
from streamnest.reporting.summary import EndedRun, skipped_by_cause
from streamnest.targets import TeacherQuantizer

# Terms of the loss by their name in metrics, as a panel calls them.
_TERMS = {"masked": "masked", "unmasked": "unmasked", "next_token": "next frames"}


def summary_panel(run: EndedRun) -> Group:
    """Compares validation with the unigram baseline, reports cost and skipped data, and prints the next commands."""
    learned = [_learned_rows(run.model, run.history), _health_rows(run.model, run.history)]
    sections = [*learned, _spent_rows(run.model, run.data, run.trainer, run.seconds)]
    return panel(f"{run.cfg.name}: step {run.trainer.global_step}", sections, _commands(run))


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
        ("audio consumed", _audio_consumed(model)),
        ("wall time", _duration(seconds)),
        ("peak memory", f"{peak_memory_gb(model.device):.1f} GB"),
        *_speed_rows(trainer),
        *_skipped_steps(trainer),
        ("skipped utterances", ", ".join(f"{n} {cause}" for cause, n in sorted(skipped.items())) or "none"),
        ("checkpoint", str(checkpoint) if checkpoint else "none"),
        *[("W&B", problem) for logger in trainer.loggers for problem in getattr(logger, "problems", ())],
    ]


def _audio_consumed(model: EncoderTask) -> str:
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
    return short_path(last) if last.is_file() else short_path(Path(best)) if best else None
