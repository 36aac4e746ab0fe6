"""Starting a run from the weights of another: what fits is kept or converted, the rest is new."""

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
    """What became of one tensor: its name, one of `OUTCOMES`, and why."""

    name: str
    outcome: str
    reason: str

    @property
    def spare(self) -> bool:
        """Whether it is new because the model was asked to have what the checkpoint never had: statistics of a norm."""
        return self.reason == _NO_STATISTICS


@dataclass
class TransferReport:
    """What a run took over from a checkpoint.

    Attributes:
        path: of the checkpoint.
        entries: one for each tensor of the model, and for each of the checkpoint that found no place.
        differences: name and values, theirs and ours, of what differs in the architecture.
    """

    path: Path
    entries: list[Entry] = field(default_factory=list)
    differences: list[tuple[str, Any, Any]] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Tensors by outcome."""
        found = Counter(entry.outcome for entry in self.entries)
        return {outcome: found[outcome] for outcome in OUTCOMES}

    def grouped(self, outcome: str) -> dict[str, Counter[str]]:
        """Reasons of an outcome, each with its names and how many layers share them; `*` stands for their numbers."""
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
    """Initialises a model from a checkpoint of the same or another architecture.

    Tensors of the same name and shape are copied; convolution modules are converted, see `convert_convolution`; heads
    are kept where the quantizers agree. Optimiser, step and position in the data begin anew.

    Args:
        model: is changed in place.
        path: of the checkpoint.
        how: convolution modules change their kind.
        encoder_only: take front end, statistics of the input and encoder, and nothing else.

    Raises:
        UserError: as `read_own`; or when nothing of the encoder fits.
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
    """Masking at the live edge wraps another masking, two objectives together wrap each: the tensors are the same."""
    name = name.replace("masking.masking.", "masking.")
    return name.replace("objective.masked.", "objective.").replace("objective.next_token.", "objective.")


def _convert_convolutions(
    model: EncoderTask, source: dict[str, Tensor], theirs: Mapping[str, Any], how: Conversion
) -> dict[str, str]:
    """Replaces convolution modules of `source` by what they are in the model; names and reasons of what changed."""
    changed = {}
    for index, block in enumerate(model.encoder.layers):
        prefix = f"encoder.layers.{index}.convolution."
        state = {name.removeprefix(prefix): value for name, value in source.items() if name.startswith(prefix)}
        kernel = state.get("depthwise.weight")
        if kernel is None or len(kernel) != model.encoder.d_model:
            continue
        taps = kernel.shape[-1]
        past = (taps if theirs.get("conv_padding", "causal") == "causal" else (taps + 1) // 2) - 1
        state, reasons = convert(state, past, block.convolution, how)
        source.update({prefix + name: value for name, value in state.items()})
        changed.update({prefix + name: reason for name, reason in reasons.items()})
    return changed


def _decide(
    name: str, value: Tensor, source: Mapping[str, Tensor], converted: Mapping[str, str], differing: set[str]
) -> tuple[str, str]:
    """Outcome and reason for a tensor of the model."""
    if why := _own(name, value, differing) or _misfit(name, value, source):
        return "new", why
    if name in converted:
        return "reshaped", converted[name]
    return "kept", _kept(name, differing)


def _own(name: str, value: Tensor, differing: set[str]) -> str:
    """Why a run has its own, whatever the checkpoint holds; empty where it has not."""
    if name in ("train_counts", "seconds_seen"):
        return "counts of this run"
    if name == "masking.mask_embedding" and not isinstance(value, nn.Parameter):
        return "the mask value of this run is a constant"
    if name.startswith(("quantizer.", "objective.")) and any(key.startswith("quantizer.") for key in differing):
        return "the quantizers differ: a code means something else"
    return ""


def _misfit(name: str, value: Tensor, source: Mapping[str, Tensor]) -> str:
    """Why the checkpoint has nothing to take; empty where it has."""
    match = _CONVOLUTION.fullmatch(name)
    if name in source:
        found, wanted = tuple(source[name].shape), tuple(value.shape)
        return f"shape {found} in the checkpoint, {wanted} in this run" if found != wanted else ""
    if match and f"encoder.layers.{match[1]}.convolution.depthwise.weight" in source:
        return _NO_STATISTICS
    return "not in the checkpoint"


def _kept(name: str, differing: set[str]) -> str:
    match = _CONVOLUTION.fullmatch(name)
    if name.startswith("quantizer."):
        return "the quantizers agree: the same codes"
    if name.startswith(("input_norm.", "target_norm.")):
        return "corpus statistics; pretraining fits them to its own training set at start"
    if name.startswith("encoder.subsampling.") and "encoder.subsampling_padding" in differing:
        return "same weights, but the stems pad differently: what a frame hears is shifted"
    if match and match[2].startswith("norm.") and "encoder.conv_norm" in differing:
        return "weights and statistics as they were in the other norm"
    return "same name and shape"


def _unused(name: str) -> str:
    match = _CONVOLUTION.fullmatch(name)
    if match and match[2].startswith("norm."):
        return "the norm of this run has no such statistics"
    return "no such tensor in this run"


def _shapes(report: TransferReport) -> str:
    reasons = report.grouped("new")
    return "\n".join(f"  {next(iter(names))}: {reason}" for reason, names in list(reasons.items())[:5])
