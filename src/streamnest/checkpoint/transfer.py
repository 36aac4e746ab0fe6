"""Initializes a run from the weights of another: matching tensors are kept or converted, the others are new."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from streamnest.checkpoint.convert_convolution import Conversion, convert
from streamnest.checkpoint.loading import differences, read_own
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError

_ENCODER = ("frontend.", "input_norm.", "encoder.")
OUTCOMES = ("kept", "reshaped", "new", "left out")
_NO_STATISTICS = "the norm in the checkpoint has no such statistics"
_CONVOLUTION = re.compile(r"encoder\.layers\.(\d+)\.convolution\.(.+)")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """Outcome of one tensor: its name, one of `OUTCOMES`, and the reason."""

    name: str
    outcome: str
    reason: str

    @property
    def spare(self) -> bool:
        """True if the tensor is new because only this model has such statistics of a norm."""
        return self.reason == _NO_STATISTICS


@dataclass
class TransferReport:
    """Tensors that a run takes from a checkpoint, and the others.

    Attributes:
        path: path of the checkpoint.
        entries: one for each tensor of the model, and for each tensor of the checkpoint that is not used.
        differences: differences in architecture: name, stored value, value of this run.
    """

    path: Path
    entries: list[Entry] = field(default_factory=list)
    differences: list[tuple[str, Any, Any]] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Number of tensors by outcome."""
        found = Counter(entry.outcome for entry in self.entries)
        return {outcome: found[outcome] for outcome in OUTCOMES}

    def grouped(self, outcome: str) -> dict[str, Counter[str]]:
        """Groups an outcome by reason: names, with `*` for the number of a layer, and how many tensors have them."""
        groups: dict[str, Counter[str]] = {}
        for entry in self.entries:
            if entry.outcome == outcome:
                name = re.sub(r"\.\d+\.", ".*.", entry.name)
                groups.setdefault(entry.reason, Counter())[name] += 1
        return groups


@torch.no_grad()
def transfer(
    model: EncoderTask, path: str | Path, how: Conversion | None = None, encoder_only: bool = False
) -> TransferReport:
    """Initializes a model from a checkpoint of the same or another architecture.

    Tensors of the same name and shape are copied. Convolution modules are converted, see `convert_convolution`. Heads
    are kept if the quantizers agree. Optimizer, step and position in the data are not restored.

    Args:
        model: model, changed in place.
        path: path of the checkpoint.
        how: options of the conversion of convolution modules.
        encoder_only: take only front end, input statistics and encoder.

    Raises:
        UserError: as `read_own`; or if no tensor of the encoder fits.
    """
    checkpoint = read_own(path)
    config = checkpoint["streamnest"]["config"]
    wanted = _ENCODER if encoder_only else ""
    found = [entry for entry in differences(config, model.config) if entry[0].startswith(wanted)]
    report = TransferReport(Path(path), differences=found)
    weights = checkpoint["state_dict"].items()
    source: dict[str, Tensor] = {_plain(name): value for name, value in weights if name.startswith(wanted)}
    converted = _convert_convolutions(model, source, config.get("encoder", {}), how or Conversion())
    for name, value in model.state_dict(keep_vars=True).items():
        outcome, reason = _decide(_plain(name), value, source, converted, {name for name, _, _ in report.differences})
        if outcome in ("kept", "reshaped"):
            value.copy_(source[_plain(name)])
        report.entries.append(Entry(_plain(name), outcome, reason))
    known = {entry.name for entry in report.entries}
    report.entries += [Entry(name, "left out", _unused(name)) for name in source if name not in known]
    if not any(entry.name.startswith("encoder.") and entry.outcome in ("kept", "reshaped") for entry in report.entries):
        raise UserError(f"nothing of the encoder in {path} fits this one:\n{_shapes(report)}")
    log.info("from %s: %s", path, ", ".join(f"{count} tensors {outcome}" for outcome, count in report.counts.items()))
    return report


def _plain(name: str) -> str:
    """Removes prefixes of wrappers: masking at the live edge wraps a masking, the joint objective wraps two."""
    name = name.replace("masking.masking.", "masking.")
    return name.replace("objective.masked.", "objective.").replace("objective.next_token.", "objective.")


def _convert_convolutions(
    model: EncoderTask, source: dict[str, Tensor], theirs: Mapping[str, Any], how: Conversion
) -> dict[str, str]:
    """Converts the convolution modules in `source` to the kind of the model; returns reasons by tensor name."""
    changed = {}
    for index, layer in enumerate(model.encoder.layers):
        prefix = f"encoder.layers.{index}.convolution."
        state = {name.removeprefix(prefix): value for name, value in source.items() if name.startswith(prefix)}
        kernel = state.get("depthwise.weight")
        if kernel is None or len(kernel) != model.encoder.d_model:
            continue
        taps = kernel.shape[-1]
        past = (taps if theirs.get("conv_padding", "causal") == "causal" else (taps + 1) // 2) - 1
        state, reasons = convert(state, past, layer.convolution, how)
        source.update({prefix + name: value for name, value in state.items()})
        changed.update({prefix + name: reason for name, reason in reasons.items()})
    return changed


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
        return "the quantizers differ, so the codes have another meaning"
    return ""


def _misfit(name: str, value: Tensor, source: Mapping[str, Tensor]) -> str:
    """Returns the reason why the checkpoint has no matching tensor; empty if it has one."""
    match = _CONVOLUTION.fullmatch(name)
    if name in source:
        stored, wanted = tuple(source[name].shape), tuple(value.shape)
        return f"shape {stored} in the checkpoint, {wanted} in this run" if stored != wanted else ""
    if match and f"encoder.layers.{match[1]}.convolution.depthwise.weight" in source:
        return _NO_STATISTICS
    return "not in the checkpoint"


def _kept(name: str, differing: set[str]) -> str:
    match = _CONVOLUTION.fullmatch(name)
    if name.startswith("quantizer."):
        return "the quantizers agree: the same codes"
    if name.startswith(("input_norm.", "target_norm.")):
        return "corpus statistics; pretraining computes them from its own training set at the start"
    if name.startswith("encoder.subsampling.") and "encoder.subsampling_padding" in differing:
        return "same weights, but another subsampling padding: the receptive field of a frame is shifted"
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
