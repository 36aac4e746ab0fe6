"""Initialization of a model from the checkpoint of another: tensors that fit are copied or converted."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from streamnest.checkpoint.compatibility import differences
from streamnest.checkpoint.convert_convolution import Conversion, convert
from streamnest.checkpoint.loading import read_checked
from streamnest.checkpoint.transfer_report import TransferredPart, TransferReport
from streamnest.encoder.dual_mode import streaming_name
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError

_ENCODER = ("frontend.", "input_norm.", "encoder.")
# The reason for statistics of a norm that are new because the norm of the checkpoint has none.
NO_STATISTICS = "the norm in the checkpoint has no such statistics"
_FINGERPRINT = "quantizer.fingerprint"
_CONVOLUTION = re.compile(r"encoder\.layers\.(\d+)\.convolution\.(.+)")
log = logging.getLogger(__name__)


@torch.no_grad()
def transfer(
    model: EncoderTask, path: str | Path, how: Conversion | None = None, encoder_only: bool = False
) -> TransferReport:
    """Initializes a model from a checkpoint of the same or another architecture.

    Tensors of the same name and shape are copied; convolution modules are converted, see `convert_convolution`; heads
    are kept if the quantizers agree. Optimizer state, step and position in the data are not transferred.

    Args:
        model: model to initialize, changed in place.
        path: checkpoint to read.
        how: conversion of convolution modules.
        encoder_only: transfer only the front end, the input statistics and the encoder.

    Raises:
        UserError: as `read_checked`; or if no tensor of the encoder fits.
    """
    checkpoint = read_checked(path)
    config = checkpoint["streamnest"]["config"]
    wanted = _ENCODER if encoder_only else ""
    changed = [setting for setting in differences(config, model.config) if setting[0].startswith(wanted)]
    changed += [] if encoder_only else _other_teacher(checkpoint["state_dict"], model)
    report = TransferReport(Path(path), differences=changed)
    weights = checkpoint["state_dict"].items()
    source: dict[str, Tensor] = {_plain(name): value for name, value in weights if name.startswith(wanted)}
    converted = _convert_convolutions(model, source, config.get("encoder", {}), how or Conversion())
    converted |= _copy_streaming_norms(model, source)
    for name, value in model.state_dict(keep_vars=True).items():
        outcome, reason = _decide(_plain(name), value, source, converted, {name for name, _, _ in report.differences})
        if outcome in ("kept", "reshaped"):
            value.copy_(source[_plain(name)])
        report.parts.append(TransferredPart(_plain(name), outcome, reason))
    known = {part.name for part in report.parts}
    report.parts += [TransferredPart(name, "left out", _unused(name)) for name in source if name not in known]
    if not any(part.name.startswith("encoder.") and part.outcome in ("kept", "reshaped") for part in report.parts):
        raise UserError(f"no encoder tensor in {path} fits this model:\n{_shapes(report)}")
    log.info("from %s: %s", path, ", ".join(f"{count} tensors {outcome}" for outcome, count in report.counts.items()))
    return report


def _other_teacher(state: Mapping[str, Tensor], model: EncoderTask) -> list[tuple[str, Any, Any]]:
    """Lists the teachers of the checkpoint and of this run if both have one and they differ."""
    prints = (state.get(_FINGERPRINT), dict(model.named_buffers()).get(_FINGERPRINT))
    then, now = ("none" if one is None else bytes(one.tolist()).hex()[:8] for one in prints)
    return [("quantizer.teacher", then, now)] if then != now and "none" not in (then, now) else []


def _plain(name: str) -> str:
    """Removes the prefixes of wrappers (live-edge masking, combined objectives): the tensors are the same."""
    name = name.replace("masking.masking.", "masking.")
    return name.replace("objective.masked.", "objective.").replace("objective.next_token.", "objective.")


def _convert_convolutions(
    model: EncoderTask, source: dict[str, Tensor], source_config: Mapping[str, Any], how: Conversion
) -> dict[str, str]:
    """Converts the convolution modules in `source` to those of the model; returns the reason for each changed name."""
    changed = {}
    for index, layer in enumerate(model.encoder.layers):
        prefix = f"encoder.layers.{index}.convolution."
        state = {name.removeprefix(prefix): value for name, value in source.items() if name.startswith(prefix)}
        kernel = state.get("depthwise.weight")
        if kernel is None or len(kernel) != model.encoder.d_model:
            continue
        taps = kernel.shape[-1]
        past = (taps if source_config.get("conv_padding", "causal") == "causal" else (taps + 1) // 2) - 1
        state, reasons = convert(state, past, layer.convolution, how)
        source.update({prefix + name: value for name, value in state.items()})
        changed.update({prefix + name: reason for name, reason in reasons.items()})
    return changed


def _copy_streaming_norms(model: EncoderTask, source: dict[str, Tensor]) -> dict[str, str]:
    """Adds the norms of the offline mode that `source` lacks, from its streaming norms; returns a reason for each."""
    pairs = [(name, streaming_name(name)) for name in map(_plain, model.state_dict()) if name not in source]
    copied = {name: other for name, other in pairs if other is not None and other in source}
    source.update({name: source[other] for name, other in copied.items()})
    return dict.fromkeys(copied, "copied from the streaming norms of the checkpoint")


def _decide(
    name: str, value: Tensor, source: Mapping[str, Tensor], converted: Mapping[str, str], differing: set[str]
) -> tuple[str, str]:
    """Returns outcome and reason for a tensor of the model."""
    if why := _own(name, value, differing) or _misfit(name, value, source):
        return "new", why
    if name in converted:
        return "reshaped", converted[name]
    return "kept", _kept(name, differing)


def _own(name: str, value: Tensor, differing: set[str]) -> str:
    """Returns the reason why a tensor is never taken from a checkpoint; empty if it may be."""
    if name in ("train_counts", "seconds_seen"):
        return "counts of this run"
    if name == "masking.mask_embedding" and not isinstance(value, nn.Parameter):
        return "the mask value of this run is a constant"
    if name.startswith(("quantizer.", "objective.")) and any(key.startswith("quantizer.") for key in differing):
        return "the quantizers differ, so that codes have another meaning"
    return ""


def _misfit(name: str, value: Tensor, source: Mapping[str, Tensor]) -> str:
    """Returns the reason why the checkpoint has no usable tensor; empty if it has one."""
    match = _CONVOLUTION.fullmatch(name)
    if name in source:
        stored, wanted = tuple(source[name].shape), tuple(value.shape)
        return f"shape {stored} in the checkpoint, {wanted} in this run" if stored != wanted else ""
    if match and f"encoder.layers.{match[1]}.convolution.depthwise.weight" in source:
        return NO_STATISTICS
    return "not in the checkpoint"


def _kept(name: str, differing: set[str]) -> str:
    match = _CONVOLUTION.fullmatch(name)
    if name.startswith("quantizer."):
        return "the quantizers are equal: same codes"
    if name.startswith(("input_norm.", "target_norm.")):
        return "corpus statistics; pretraining refits them to its training set at start"
    if name.startswith("encoder.subsampling.") and "encoder.subsampling_padding" in differing:
        return "same weights, but subsampling_padding differs: receptive fields are shifted"
    if match and match[2].startswith("norm.") and "encoder.conv_norm" in differing:
        return "weights and statistics of the other norm"
    return "same name and shape"


def _unused(name: str) -> str:
    match = _CONVOLUTION.fullmatch(name)
    if match and match[2].startswith("norm."):
        return "the norm of this run has no such statistics"
    return "no such tensor in this run"


def _shapes(report: TransferReport) -> str:
    reasons = report.grouped("new")
    return "\n".join(f"  {next(iter(names))}: {reason}" for reason, names in list(reasons.items())[:5])
