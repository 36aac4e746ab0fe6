"""Average of the weights of several checkpoints of one model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamnest.checkpoint.compatibility import differences, task_differences
from streamnest.checkpoint.loading import load_model, read_checked
from streamnest.config.stored import task_name
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.files.plain_data import short

# File names of `callbacks.recent`.
_RECENT = re.compile(r"recent_(\d+)\.ckpt")
# Buffers that change with the weights; all others are counts, statistics and codebooks.
_AVERAGED_BUFFERS = ("running_mean", "running_var")


def last_checkpoints(folder: str | Path, number: int) -> list[Path]:
    """Returns the last checkpoints that `callbacks.recent` has saved in the folder of a run, in their order.

    Raises:
        UserError: if there are fewer.
    """
    found = [path for path in Path(folder).glob("checkpoints/*.ckpt") if _RECENT.fullmatch(path.name)]
    if number > len(found):
        raise UserError(
            f"--last {number}: {folder} has {len(found)} files checkpoints/recent_*.ckpt: train with "
            f"callbacks.recent.save_top_k={number}, or name the checkpoints"
        )
    return sorted(found, key=lambda path: int(path.stem.partition("_")[2]))[-number:]


@torch.no_grad()
def average(paths: Sequence[str | Path]) -> tuple[EncoderTask, list[int]]:
    """Averages the weights of checkpoints, one in memory at a time, in float64.

    Counts, corpus statistics, codebooks and the config are those of the newest checkpoint, which is the one with the
    most updates.

    Args:
        paths: two or more checkpoints of one architecture and vocabulary.

    Returns:
        The model, in evaluation mode, and the number of updates of each checkpoint; 0 if it is not stored.

    Raises:
        UserError: as `load_model`; for fewer than two checkpoints, for one that is repeated, and for those that differ
            in architecture, task, vocabulary, shapes or target codes.
    """
    if len(paths) < 2:
        raise UserError("an average needs two or more checkpoints: name them, or give the folder of a run and --last N")
    counts = Counter(Path(path).resolve() for path in paths)
    if repeated := [path for path, count in counts.items() if count > 1]:
        raise UserError(f"{repeated[0]} is given {counts[repeated[0]]} times: name each checkpoint once")
    first: dict[str, Any] = {}
    sums, steps = dict[str, Tensor](), list[int]()
    for path in paths:
        checkpoint = read_checked(path)
        shapes = {name: value.shape for name, value in checkpoint["state_dict"].items()}
        codes = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("quantizer.")}
        current = {"path": path, "shapes": shapes, "codes": codes, **checkpoint["streamnest"]}
        first = first or current
        _require_equal(first, current)
        for name, value in checkpoint["state_dict"].items():
            if value.is_floating_point():
                sums[name] = sums[name] + value if name in sums else value.double()
        updates = checkpoint.get("global_step")
        steps.append(updates if type(updates) is int else 0)
    model = load_model(paths[max(range(len(paths)), key=lambda index: (steps[index], index))])
    learned = {name for name, _ in model.named_parameters()}
    for name, value in model.state_dict(keep_vars=True).items():
        if name in learned or name.endswith(_AVERAGED_BUFFERS):
            value.copy_(sums[name] / len(paths))
    return model, steps


def _require_equal(first: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Refuses a checkpoint that differs from the first one in more than its values."""
    begin = f"{other['path']} cannot be averaged with {first['path']}: "
    configs = first["config"], other["config"]
    if task_name(configs[0]) != task_name(configs[1]):
        raise UserError(f"{begin}its task is {task_name(configs[1])}, not {task_name(configs[0])}")
    if changed := [*differences(*configs), *task_differences(*configs)]:
        name, then, now = changed[0]
        raise UserError(f"{begin}{name} is {short(now)}, not {short(then)}")
    if first.get("labels") != other.get("labels"):
        raise UserError(f"{begin}it has another vocabulary or other labels")
    if strange := sorted(name for name, _ in first["shapes"].items() ^ other["shapes"].items()):
        raise UserError(f"{begin}the shapes of {short(strange[0])} differ")
    if any(not torch.equal(value, other["codes"][name]) for name, value in first["codes"].items()):
        raise UserError(f"{begin}its target codes are others, such as those of another teacher: average one run")
