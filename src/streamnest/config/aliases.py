"""Old names in stored files: the one table of classes, config keys, values and weights that were renamed.

Checkpoints, model folders and exported graphs keep the names of the version that wrote them. They are translated once,
as a file is read; nothing else knows an old name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# `_target_` of a config: old -> new.
TARGETS: dict[str, str] = {
    "streamnest.data.augmentation.Augmentation.build": "streamnest.data.augment.augmentation.Augmentation.build",
    "streamnest.data.augment.NoiseAndSpeakerMixing": "streamnest.data.augment.noise_and_speakers.NoiseAndSpeakerMixing",
    "streamnest.data.reverb.Reverberation": "streamnest.data.augment.reverb.Reverberation",
    "streamnest.data.speed.SpeedPerturbation": "streamnest.data.augment.speed.SpeedPerturbation",
    "streamnest.sharding.FullySharded": "streamnest.distributed.sharding.FullySharded",
}
# Keys of a config, by group: old -> new.
KEYS: dict[str, dict[str, str]] = {}
# Values of a config, by group and (new) key: old -> new.
VALUES: dict[tuple[str, str], dict[str, Any]] = {}
# Parts of the names of weights, between dots or at an end: old -> new.
WEIGHTS: dict[str, str] = {}


def current_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored config in today's names; other content is as it was."""
    renamed = {group: _with_new_keys(group, node) for group, node in config.items()}
    return {group: _with_new_targets(node) for group, node in renamed.items()}


def current_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns named weights under today's names."""
    return {".".join(WEIGHTS.get(part, part) for part in str(name).split(".")): value for name, value in state.items()}


def _with_new_keys(group: str, node: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    names = KEYS.get(group, {})
    found = {names.get(key, key): value for key, value in node.items()}
    return {key: _with_new_value(VALUES.get((group, key), {}), value) for key, value in found.items()}


def _with_new_value(values: Mapping[str, Any], value: Any) -> Any:
    return values.get(value, value) if isinstance(value, str) else value


def _with_new_targets(node: Any) -> Any:
    if isinstance(node, Mapping):
        found = {key: _with_new_targets(value) for key, value in node.items()}
        target = found.get("_target_")
        return found | {"_target_": TARGETS[target]} if isinstance(target, str) and target in TARGETS else found
    return [_with_new_targets(value) for value in node] if isinstance(node, list) else node
