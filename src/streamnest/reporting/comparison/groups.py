"""Groups of runs whose metric measures the same quantity, so that they may be ranked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from streamnest.reporting.comparison.run import Run

_VALIDATION = ("val_manifest", "languages", "min_duration", "max_duration", "on_long", "channel", "augment_val")
# Config keys that a metric depends on besides the validation set, by the last part of its name.
_DEPENDS: dict[str, dict[str, Sequence[str] | None]] = {
    "rank": {},
    "cer": {},
    "wer": {},
    "der": {"task": ("max_speakers", "collar", "skip_overlap", "val_conversations", "conversations")},
    "eer": {"task": ("held_out", "trials")},
}
# The same for all other metrics: task, objective, masks and codes. None is the whole config group.
_OTHERS: dict[str, Sequence[str] | None] = {
    **{"task": None, "objective": None, "masking": None, "quantizer": None, "frontend": None},
    "encoder": ("subsampling_factor",),
}
# Keys that name or construct an object and change no metric.
_IGNORED = {"_target_", "d_model", "name", "monitor"}
_MOST = 3


def comparable(runs: Sequence[Run], metric: str | None = None) -> dict[str, list[Run]]:
    """Splits runs by task and, within a task, by the settings that their metric depends on.

    Args:
        runs: runs in display order, which is kept.
        metric: metric to compare by; None takes the one that each task monitors.

    Returns:
        Runs by heading. A heading names the task and the settings that distinguish its group from others of the task.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        settings = json.dumps(_deciding_settings(run, metric or run.monitor), sort_keys=True, default=str)
        groups.setdefault((run.task, settings), []).append(run)
    by_heading: dict[str, list[Run]] = {}
    for (task, settings), members in groups.items():
        others = [(json.loads(other), found[0]) for (name, other), found in groups.items() if name == task]
        heading = ", ".join([task, *_differences(json.loads(settings), members[0], others)])
        by_heading[heading if heading not in by_heading else f"{heading} ({len(by_heading) + 1})"] = members
    return by_heading


def _deciding_settings(run: Run, metric: str) -> dict[str, Any]:
    """Returns the settings that a metric depends on, by dotted key."""
    name = metric.rpartition("/")[2]
    settings: dict[str, Any] = {"metric": metric}
    for group, keys in {"data": _VALIDATION, **_DEPENDS.get(name, _OTHERS)}.items():
        node = run.config.get(group)
        values = node if isinstance(node, dict) else {}
        for key in values if keys is None else keys:
            if key not in _IGNORED:
                settings[f"{group}.{key}"] = run.value(f"{group}.{key}")
    return settings


def _differences(settings: dict[str, Any], run: Run, others: Sequence[tuple[dict[str, Any], Run]]) -> list[str]:
    """Returns `key=value` for what differs, what fewest groups share first.

    A config group of which several options were chosen stands for all of its keys.
    """
    keys = dict.fromkeys(key for one in (settings, *(other for other, _ in others)) for key in one)
    differing = [key for key in keys if any(other.get(key) != settings.get(key) for other, _ in others)]
    options = {key.partition(".")[0]: [other.choices.get(key.partition(".")[0]) for _, other in others] for key in keys}
    shared: dict[str, int] = {}
    for key in differing:
        group = key.partition(".")[0]
        if len(set(options[group])) > 1:
            shared[f"{group}={run.choices.get(group)}"] = options[group].count(run.choices.get(group))
        elif key in settings:
            value = settings[key]
            shared[f"{key}={_text(value)}"] = sum(other.get(key) == value for other, _ in others)
    shown = sorted(shared, key=lambda text: shared[text])
    return shown[:_MOST] + (["..."] if len(shown) > _MOST else [])


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
