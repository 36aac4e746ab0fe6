"""Resolves the model of a command line: the path of a checkpoint, or overrides of the config."""

from __future__ import annotations

from pathlib import Path

import torch

from streamnest.build import build_model
from streamnest.checkpoint.loading import load_model
from streamnest.config.compose import compose_config
from streamnest.encoder_task import EncoderTask


def resolve_model(arguments: list[str], config_dir: Path) -> EncoderTask:
    """Loads a checkpoint, or builds an untrained model of a config with overrides.

    Args:
        arguments: one path, or any number of overrides such as `encoder=causal`.
        config_dir: folder of `train.yaml` and the groups.

    Raises:
        UserError: for a checkpoint that cannot be read, unknown overrides, or values that do not fit each other.
    """
    if len(arguments) == 1 and ("=" not in arguments[0] or Path(arguments[0]).exists()):
        return load_model(arguments[0])
    cfg = compose_config(arguments, config_dir, "untrained")
    torch.manual_seed(cfg.seed)
    model = build_model(cfg, training=False).eval()
    for norm in model.normalizers:
        if norm.needs_statistics:  # arbitrary values are sufficient without training
            norm.set_statistics(torch.full_like(norm.mean, -8.0), torch.full_like(norm.std, 3.0))
    return model
