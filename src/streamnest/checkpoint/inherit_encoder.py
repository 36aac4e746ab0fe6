"""`encoder_from`: a run takes the encoder of a checkpoint, its size and preset included."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from streamnest.checkpoint.loading import read_own
from streamnest.checkpoint.outcomes import TransferReport
from streamnest.checkpoint.transfer import NO_STATISTICS, transfer
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError

# What a preset says; everything else about an encoder is its size.
_PRESET = {"left_context_ms", "right_context_ms", "style", "contexts", "conv_padding", "conv_norm", "normalize"}
# What each run decides for itself: it changes neither the weights nor the function.
_OWN = {"dropout", "dropout_input", "dropout_attention", "activation_checkpointing", "allow_future_leak"}


def with_encoder_of(cfg: DictConfig, continued: str | None = None, overrides: list[str] | None = None) -> DictConfig:
    """The config of this run with front end, size and preset of the checkpoint that `encoder_from` names.

    `encoder=NAME` on the command line takes the preset of that name instead, and `encoder.KEY=VALUE` that value.

    Args:
        cfg: the composed config; without `encoder_from` it is returned as it is.
        continued: the checkpoint of this very run, where it goes on: that of `encoder_from` may be gone.
        overrides: of the command line; None asks Hydra.

    Raises:
        UserError: as `read_own`; and for sizes on the command line that are not those of the checkpoint.
    """
    if not cfg.encoder_from:
        return cfg
    path = continued or cfg.encoder_from
    theirs = read_own(path)["streamnest"]["config"]
    ours: Any = OmegaConf.to_container(cfg.encoder, resolve=True)
    words = [word.lstrip("+~").split("=")[0] for word in (_overrides() if overrides is None else overrides)]
    named = {word.removeprefix("encoder.").split(".")[0] for word in words if word.startswith("encoder.")}
    _refuse_sizes(path, theirs["encoder"], ours, named | (_sizes(words) - _PRESET))
    taken = _OWN | named | (_PRESET if "encoder" in words else set())
    cfg = copy.deepcopy(cfg)
    merged = {**theirs["encoder"], **{key: ours[key] for key in taken if key in ours}}
    for node, values in (("encoder", merged), ("frontend", theirs["frontend"]), ("size", theirs.get("size", {}))):
        cfg[node] = OmegaConf.merge(OmegaConf.structured(OmegaConf.get_type(cfg[node])), values)
    cfg.preset = cfg.preset if "encoder" in words else theirs.get("preset", "")
    return cfg


def load_encoder(model: EncoderTask, path: str | Path) -> TransferReport:
    """Copies front end, statistics and encoder of a checkpoint; convolutions of another kind are converted.

    Raises:
        UserError: as `read_own`; and when a part of the encoder finds nothing in the checkpoint.
    """
    report = transfer(model, path, encoder_only=True)
    new = [part for part in report.parts if part.outcome == "new" and part.name.startswith("encoder.")]
    if missing := [part for part in new if part.reason != NO_STATISTICS]:
        listed = "\n".join(f"  {part.name}: {part.reason}" for part in missing[:5])
        raise UserError(f"encoder_from={path} does not fit this encoder:\n{listed}")
    return report


def _overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _sizes(words: list[str]) -> set[str]:
    """Fields of the encoder that the command line decides through the group `size`."""
    from streamnest.config.schema import SizeConfig

    if "size" in words:
        return set(vars(SizeConfig())) - _OWN
    return {word.removeprefix("size.") for word in words if word.startswith("size.")} - _OWN


def _refuse_sizes(path: str, theirs: dict[str, Any], ours: dict[str, Any], named: set[str]) -> None:
    wrong = [key for key in sorted(named - _PRESET - _OWN) if key in ours and theirs.get(key) != ours[key]]
    if wrong:
        listed = "\n".join(
            f"  {key}: {theirs.get(key)!r} in the checkpoint, {ours[key]!r} in this run" for key in wrong
        )
        raise UserError(f"encoder_from={path} has an encoder of another size; leave out what names one:\n{listed}")
