"""The encoder presets, built narrow: latency depends on the number of layers, not on their width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from streamnest.config.compose import compose_config
from streamnest.encoder import EncoderConfig, FastConformer
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.latency import LatencyReport, latency_report

_SMALL = {"d_model": 16, "num_heads": 2, "subsampling_channels": 4}


def preset_names(configs: Path) -> list[str]:
    """Returns the names of the group `encoder`."""
    return sorted(path.stem for path in (configs / "encoder").glob("*.yaml") if not path.stem.startswith("base"))


def small_encoder(configs: Path, preset: str, overrides: Sequence[str] = ()) -> FastConformer:
    """Builds an encoder with the layers and contexts of a preset.

    Raises:
        UserError: if it cannot be built with the overrides.
    """
    cfg = compose_config([f"encoder={preset}", *overrides], configs, preset)
    return FastConformer(EncoderConfig(**{**{k: v for k, v in cfg.encoder.items() if k != "_target_"}, **_SMALL}))


def preset_latencies(configs: Path, overrides: Sequence[str] = ()) -> dict[str, LatencyReport]:
    """Computes the latency of each preset that has one context and can be built with the overrides."""
    compose_config(list(overrides), configs, "presets")  # refuses overrides that no preset has
    found = {}
    for name in preset_names(configs):
        try:
            encoder = small_encoder(configs, name, overrides)
        except UserError:
            continue
        if not encoder.choices.by_name:
            found[name] = latency_report(encoder, LogMel(), encoder.normalize != "utterance")
    return found
