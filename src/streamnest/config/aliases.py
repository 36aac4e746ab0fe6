"""Old names in stored files: the one table of classes, config keys, values and weights that were renamed.

Checkpoints, model folders and exported graphs keep the names of the version that wrote them. They are translated when
a file is read; no other code uses an old name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Version of the names in a file. Files without a number have version 1, before the tables below.
FORMAT = 2

# `_target_` of a config: old -> new.
TARGETS: dict[str, str] = {
    "streamnest.data.augmentation.Augmentation.build": "streamnest.data.augment.augmentation.Augmentation",
    "streamnest.data.augment.NoiseAndSpeakerMixing": "streamnest.data.augment.noise_and_speakers.NoiseAndSpeakerMixing",
    "streamnest.data.reverb.Reverberation": "streamnest.data.augment.reverb.Reverberation",
    "streamnest.data.speed.SpeedPerturbation": "streamnest.data.augment.speed.SpeedPerturbation",
    "streamnest.sharding.FullySharded": "streamnest.distributed.sharding.FullySharded",
}
# Keys of a config, by group: old -> new.
KEYS: dict[str, dict[str, str]] = {
    "encoder": {
        "stem": "subsampling_padding",
        "stem_channels": "subsampling_channels",
        "recompute_blocks": "activation_checkpointing",
    },
    "size": {"stem_channels": "subsampling_channels"},
    "quantizer": {"num_books": "num_codebooks"},
    "masking": {"min_heard": "min_unmasked"},
    "objective": {"num_books": "num_codebooks", "heard_weight": "unmasked_weight", "max_heard": "max_visible"},
    "task": {
        "predictor": "prediction_network",
        "predictor_dim": "prediction_dim",
        "predictor_layers": "prediction_layers",
    },
}
# Values of a config, by group and (new) key: old -> new.
VALUES: dict[tuple[str, str], dict[str, Any]] = {
    ("encoder", "normalize"): {"running": "online"},
    ("quantizer", "normalize"): {"running": "online"},
}
# Beginnings of the names of weights: old -> new.
WEIGHTS: dict[str, str] = {
    "seconds_heard": "seconds_seen",
    "encoder.stem.": "encoder.subsampling.",
    "encoder.blocks.": "encoder.layers.",
    "head.predictor.": "head.prediction_network.",
}
# Keys of a saved stream: old -> new.
STREAM_KEYS: dict[str, str] = {"heard": "num_samples_in"}
# Entries of a checkpoint with named weights; the second one exists if weights are averaged.
_STATES = ("state_dict", "current_model_state")


def modernize(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Translates old names in a checkpoint, in place.

    Args:
        checkpoint: content of a file before its checks; unexpected content is left for them to refuse.
    """
    stored = checkpoint.get("streamnest")
    if not isinstance(stored, dict) or stored.get("format", 1) != 1 or not isinstance(stored.get("config"), dict):
        return checkpoint
    checkpoint["streamnest"] = {**stored, "config": current_config(stored["config"]), "format": FORMAT}
    for name in _STATES:
        if isinstance(checkpoint.get(name), dict):
            checkpoint[name] = current_weights(checkpoint[name])
    return checkpoint


def current_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored config in current names; other content is unchanged."""
    renamed = {group: _with_new_keys(group, node) for group, node in config.items()}
    return {group: _with_new_targets(node) for group, node in renamed.items()}


def current_weights(state: Mapping[Any, Any]) -> dict[Any, Any]:
    """Returns named weights under current names."""
    return {_renamed(name): value for name, value in state.items()}


def current_stream(saved: Mapping[Any, Any]) -> dict[Any, Any]:
    """Returns a saved stream under the current keys."""
    return {STREAM_KEYS.get(key, key) if isinstance(key, str) else key: value for key, value in saved.items()}


def _renamed(name: Any) -> Any:
    for old, new in WEIGHTS.items():
        if isinstance(name, str) and name.startswith(old):
            return new + name[len(old) :]
    return name


def _with_new_keys(group: str, node: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    names = KEYS.get(group, {})
    found = {names.get(str(key), str(key)): value for key, value in node.items()}
    return {key: _with_new_value(VALUES.get((group, key), {}), value) for key, value in found.items()}


def _with_new_value(values: Mapping[str, Any], value: Any) -> Any:
    return values.get(value, value) if isinstance(value, str) else value


def _with_new_targets(node: Any) -> Any:
    if isinstance(node, Mapping):
        found = {key: _with_new_targets(value) for key, value in node.items()}
        target = found.get("_target_")
        return found | {"_target_": TARGETS[target]} if isinstance(target, str) and target in TARGETS else found
    return [_with_new_targets(value) for value in node] if isinstance(node, list) else node
