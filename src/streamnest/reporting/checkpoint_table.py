"""A table of what a checkpoint is: task, size, audio consumed, and its last validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from streamnest.checkpoint.loading import read_checked
from streamnest.checkpoint.model_card import last_validation
from streamnest.config.stored import task_name
from streamnest.console.terminal import printable
from streamnest.curves.curve import curve_of_records, describe
from streamnest.curves.metrics import figure, title
from streamnest.formatting import count

_ENCODER = "encoder."


def checkpoint_table(path: Path) -> Table:
    """Describes a checkpoint, which is read without executing anything in it.

    Raises:
        UserError: as `read_checked`.
    """
    content = read_checked(path)
    config, weights = content["streamnest"]["config"], content["state_dict"]
    table = Table(title=printable(str(path)), title_justify="left", show_header=False)
    encoder = sum(tensor.numel() for name, tensor in weights.items() if name.startswith(_ENCODER))
    rows = [
        ("task", task_name(config)),
        ("preset", str(config.get("preset", ""))),
        ("encoder", f"{count(encoder)} weights, normalization {config['encoder'].get('normalize')}"),
        ("encoder from", str(config.get("encoder_from") or config.get("init_from") or "new weights")),
        ("steps", str(content.get("global_step", "unknown"))),
        ("audio consumed", _consumed(config, weights)),
        *_validation(config, content),
    ]
    for name, text in rows:
        table.add_row(name, printable(text))
    return table


def _consumed(config: Mapping[str, Any], weights: Mapping[str, Any]) -> str:
    if "seconds_seen" not in weights:
        return "unknown"
    trainer = config.get("trainer")
    budget = trainer.get("max_audio_hours") if isinstance(trainer, Mapping) else None
    of = f" of {budget:g} h" if isinstance(budget, (int, float)) else ""
    return f"{float(weights['seconds_seen']) / 3600:.2f} h{of} in this run, over all processes"


def _validation(config: Mapping[str, Any], content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the metrics of the last validation before the checkpoint, and the trend of the monitored one."""
    last = last_validation(content)
    if not last:
        return []
    rows = [("last validation", f"step {last.get('step', math.nan):.0f}")]
    rows += [(f"  {title(name)}", figure(name, value)) for name, value in last.items() if name.startswith("val/")]
    try:
        monitor = str(config["task"].get("monitor", "val/loss"))
        curve = curve_of_records("", monitor, [dict(one) for one in content["callbacks"]["ValHistory"]["records"]])
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return [*rows, *([("learning curve", f"{title(monitor)} {describe(curve)}")] if curve else [])]
