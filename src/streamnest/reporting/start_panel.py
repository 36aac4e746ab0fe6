"""The panel at the start of a run: model, latency, data and length."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
from omegaconf import DictConfig
from rich.console import Group

from streamnest.data.datamodule import SpeechDataModule
from streamnest.downstream.base import DownstreamTask
from streamnest.encoder_task import EncoderTask
from streamnest.formatting import causality, count, masking_in_words, milliseconds
from streamnest.pretraining import Pretraining
from streamnest.reporting.panels import Row, panel
from streamnest.targets import TeacherQuantizer


def start_panel(cfg: DictConfig, model: EncoderTask, data: SpeechDataModule, trainer: L.Trainer) -> Group:
    """Describes model, latency, data and run; look-ahead and latency are computed from the layers."""
    rows = [*_model_rows(cfg, model), *_task_rows(model)]
    sections = [rows, _latency_rows(model), _data_rows(cfg, model, data), _run_rows(cfg, data, trainer)]
    return panel(f"streamnest: {cfg.name}", sections)


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
    """Lists the contexts of a dynamic encoder with the mean latency of each, those that training samples first."""
    choices = model.encoder.choices
    latency = {
        name: f"{name} ({milliseconds(model.latency.latency_mean_ms) if model.latency.streams else 'offline'})"
        for name in model.encoder.each_context()
        if name is not None
    }
    others = [latency[name] for name in choices.by_name if name not in choices.sampled]
    rows = [("contexts", "one sampled per batch: " + ", ".join(latency[name] for name in choices.sampled))]
    return (rows if latency else []) + ([("", "never sampled: " + ", ".join(others))] if others else [])


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


def _parameters(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())
