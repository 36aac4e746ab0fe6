"""Which runs may be compared: those whose metric is the answer to the same question."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from streamnest.reporting.comparison.runs import Run

_VALIDATION = ("val_manifest", "languages", "min_duration", "max_duration", "on_long", "channel", "augment_val")
# Of the config, by the ending of a metric's name: what it depends on beside the validation set.
_DEPENDS: dict[str, dict[str, Sequence[str] | None]] = {
    "rank": {},
    "cer": {},
    "wer": {},
    "der": {"task": ("max_speakers", "collar", "skip_overlap", "val_conversations", "conversations")},
    "eer": {"task": ("held_out", "trials")},
}
# Of every other: what is asked, what is hidden, and what the codes are. None is the whole group.
_OTHERS: dict[str, Sequence[str] | None] = {
    **{"task": None, "objective": None, "masking": None, "quantizer": None},
    "encoder": ("subsampling_factor",),
}
# How a group's parts are named or built, which changes no figure.
_IGNORED = {"_target_", "d_model", "name", "monitor"}
_MOST = 3
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def comparable(runs: Sequence[Run], metric: str | None = None) -> dict[str, list[Run]]:
    """Parts runs by task and, within a task, by what their metric depends on.

    Args:
        runs: in their order, which is kept.
        metric: to compare by; None takes the one that each task monitors.

    Returns:
        The runs by a heading: the task, and what distinguishes them from others of it.
    """
    parts: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        question = json.dumps(_question(run, metric or run.monitor), sort_keys=True, default=str)
        parts.setdefault((run.task, question), []).append(run)
    found: dict[str, list[Run]] = {}
    for (task, question), members in parts.items():
        others = [json.loads(other) for name, other in parts if name == task]
        heading = ", ".join([task, *_differing(json.loads(question), others)])
        found[heading if heading not in found else f"{heading} ({len(found) + 1})"] = members
    return found


def _question(run: Run, metric: str) -> dict[str, Any]:
    """Settings that a metric depends on, by dotted keys."""
    name = metric.rpartition("/")[2]
    wanted = {"data": _VALIDATION, **_DEPENDS.get(name, _OTHERS)}
    found: dict[str, Any] = {"metric": metric}
    for group, keys in wanted.items():
        node = run.config.get(group)
        values = node if isinstance(node, dict) else {}
        for key in values if keys is None else keys:
            if key not in _IGNORED:
                found[f"{group}.{key}"] = _resolved(values.get(key), run.config)
    return found


def _resolved(value: Any, config: dict[str, Any]) -> Any:
    """A value, or the one that it refers to in its config: presets write the same value in either way."""
    reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if reference is None:
        return value
    found: Any = config
    for key in reference[1].split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return value if found is None else found


def _differing(ours: dict[str, Any], others: Sequence[dict[str, Any]]) -> list[str]:
    # The kind of a masking says most; what follows from it comes after.
    keys = sorted(dict.fromkeys(key for one in (ours, *others) for key in one), key=lambda key: ".kind" not in key)
    found = [key for key in keys if any(other.get(key) != ours.get(key) for other in others)]
    shown = [f"{key}={_word(ours[key])}" for key in found if key in ours][:_MOST]
    return shown + (["..."] if len(found) > _MOST else [])


def _word(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
