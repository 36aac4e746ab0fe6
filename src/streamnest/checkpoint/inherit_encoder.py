"""`encoder_from`: initializes a run with the encoder of a checkpoint, including its size and preset."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from streamnest.checkpoint.loading import StoredCheckpoint, check_checkpoint, read_checked
from streamnest.checkpoint.transfer import NO_STATISTICS, transfer
from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.encoder import EncoderConfig
from streamnest.encoder.config import fields_with
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError

# Fields of a preset; all other fields of an encoder are its size.
_PRESET = fields_with("preset", EncoderConfig)
# Fields that each run sets for itself, because they change neither the weights nor the function.
_TRAINING = fields_with("training", EncoderConfig) - _PRESET


def with_encoder_of(
    cfg: DictConfig, continued: StoredCheckpoint | None = None, overrides: list[str] | None = None
) -> DictConfig:
    """Returns the config of a run with front end, size and preset of the checkpoint that `encoder_from` names.

    `encoder=NAME` on the command line takes the preset of that name instead, and `encoder.KEY=VALUE` or
    `frontend.kind=VALUE` that value.

    Args:
        cfg: composed config; without `encoder_from` it is returned unchanged.
        continued: checkpoint that this run continues from; it replaces that of `encoder_from`, which may be deleted.
        overrides: overrides of the command line; None takes those of Hydra.

    Raises:
        UserError: as `read_checked`; and for sizes on the command line that differ from those of the checkpoint.
    """
    if not cfg.encoder_from:
        return cfg
    path = str(continued.path) if continued else cfg.encoder_from
    if continued:
        check_checkpoint(continued.content, path)
    stored = (continued.content if continued else read_checked(path))["streamnest"]["config"]
    current: Any = OmegaConf.to_container(cfg.encoder, resolve=True)
    keys = [one.lstrip("+~").split("=")[0] for one in (_overrides() if overrides is None else overrides)]
    named = {key.removeprefix("encoder.").split(".")[0] for key in keys if key.startswith("encoder.")}
    _refuse_sizes(path, stored["encoder"], current, named | (_sizes(keys) - _PRESET))
    taken = _TRAINING | named | (_PRESET if "encoder" in keys else set())
    cfg = copy.deepcopy(cfg)
    merged = {**stored["encoder"], **{key: current[key] for key in taken if key in current}}
    frontend = stored["frontend"] | ({"kind": cfg.frontend.kind} if "frontend.kind" in keys else {})
    for node, values in (("encoder", merged), ("frontend", frontend), ("size", stored.get("size", {}))):
        cfg[node] = OmegaConf.merge(OmegaConf.structured(OmegaConf.get_type(cfg[node])), values)
    cfg.preset = cfg.preset if "encoder" in keys else stored.get("preset", "")
    return cfg


def load_encoder(model: EncoderTask, path: str | Path) -> TransferReport:
    """Copies front end, statistics and encoder of a checkpoint; convolutions of another kind are converted.

    Raises:
        UserError: as `read_checked`; and if the checkpoint has no values for a tensor of the encoder.
    """
    report = transfer(model, path, encoder_only=True)
    new = [part for part in report.parts if part.outcome == "new" and part.name.startswith("encoder.")]
    if missing := [part for part in new if part.reason != NO_STATISTICS]:
        listed = "\n".join(f"  {part.name}: {part.reason}" for part in missing[:5])
        raise UserError(f"encoder_from={path} does not fit this encoder:\n{listed}")
    return report


def _overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _sizes(keys: list[str]) -> set[str]:
    """Returns the fields of the encoder that the command line sets through the group `size`."""
    from streamnest.config.schema import SizeConfig

    if "size" in keys:
        return set(vars(SizeConfig())) - _TRAINING
    return {key.removeprefix("size.") for key in keys if key.startswith("size.")} - _TRAINING


def _refuse_sizes(path: str, stored: dict[str, Any], current: dict[str, Any], named: set[str]) -> None:
    wrong = [key for key in sorted(named - _PRESET - _TRAINING) if key in current and stored.get(key) != current[key]]
    if wrong:
        listed = "\n".join(
            f"  {key}: {stored.get(key)!r} in the checkpoint, {current[key]!r} in this run" for key in wrong
        )
        raise UserError(f"encoder_from={path} has an encoder of another size; leave out these settings:\n{listed}")
