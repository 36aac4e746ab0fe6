"""Models and presets that tests share."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig

from streamnest.build import build_model
from streamnest.config.presets import preset_names
from streamnest.pretraining import Pretraining
from streamnest.streaming.certificate import latencies, layers, lookahead, padding, promises, sessions
from streamnest.streaming.probes.check import Probe

# Encoder presets: all, those with one context, and those that stream.
PRESETS = preset_names(Path(__file__).parents[2] / "configs")
FIXED_PRESETS = [preset for preset in PRESETS if preset != "dynamic"]
STREAMING_PRESETS = [preset for preset in FIXED_PRESETS if preset != "bidirectional"]
# Overrides that make any preset small enough for a test.
TINY = (
    "size.d_model=32",
    "size.num_layers=2",
    "size.num_heads=2",
    "size.subsampling_channels=8",
    "quantizer.num_classes=64",
)
# Fast probes, for tests that verify many models.
SHORT_PROBES: tuple[Probe, ...] = (layers, promises, lookahead, padding, sessions, latencies)


def ready(cfg: DictConfig) -> Pretraining:
    """Builds a model with arbitrary corpus statistics, in evaluation mode."""
    torch.manual_seed(0)
    model = build_model(cfg)
    for norm in (model.input_norm, model.target_norm):
        norm.set_statistics(torch.full((80,), -8.0), torch.full((80,), 3.0))
    return model.eval()
