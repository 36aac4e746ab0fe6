"""Outputs of every stage of a run, and the first stage in which two runs differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from streamnest.encoder_task import EncoderTask
from streamnest.pretraining import Pretraining
from streamnest.streaming.probes.reach import Stage

Trace = list[tuple[Stage, Tensor]]
# First and last frame of each row of a stage, `(B,)`, that are compared.
Limits = Callable[[Stage], tuple[Tensor | int, Tensor | int]]


class Leak(NamedTuple):
    """Where a model was found to hear what it must not, and the first stage that does."""

    place: str
    stage: Stage
    frame: int


class Difference(NamedTuple):
    """The first frame, of any row, of the first stage in which two runs differ."""

    stage: Stage
    frame: int

    def at(self, place: str) -> Leak:
        """The leak that the difference shows."""
        return Leak(place, *self)


@contextmanager
def recorded(model: EncoderTask, path: str) -> Iterator[Trace]:
    """Records the stages of a model while it runs, in the order in which they are computed.

    Args:
        model: the model.
        path: label of what lies between the normalization and the encoder.
    """
    seen: Trace = []

    def watch(stage: Stage, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        seen.append((stage, (tensor.transpose(1, 2) if stage.kind == "features" else tensor).detach()))

    def before(stage: Stage) -> Callable[..., None]:
        return lambda _m, args, kwargs: watch(stage, args[0] if args else next(iter(kwargs.values())))

    handles = [
        module.register_forward_hook(lambda _m, _i, out, stage=stage: watch(stage, out))
        for stage, module in _modules(model)
    ]
    handles.append(model.encoder.register_forward_pre_hook(before(Stage(path, "features")), with_kwargs=True))
    if isinstance(model, Pretraining):
        output = Stage(f"{path} after the encoder", "by block")
        handles.append(model.objective.register_forward_pre_hook(before(output), with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _modules(model: EncoderTask) -> list[tuple[Stage, nn.Module]]:
    encoder = model.encoder
    modules: list[tuple[Stage, nn.Module]] = [
        (Stage("front end", "features"), model.frontend),
        (Stage("normalisation", "features"), model.input_norm),
        (Stage("stem", "stem"), encoder.subsampling),
    ]
    for number, block in enumerate(encoder.layers):
        modules += [
            (Stage(f"block {number} attention", "attention", number), block.attention),
            (Stage(f"block {number} convolution", "convolution", number), block.convolution),
            (Stage(f"block {number}", "block", number), block),
        ]
    return [*modules, (Stage("encoder output", "encoder"), encoder)]


def first_difference(one: Trace, other: Trace, limits: Limits, tolerance: float = 0.0) -> Difference | None:
    """The first stage in which two runs differ within the frames that `limits` gives; None if they agree.

    Args:
        one: from `recorded`.
        other: of audio of the same shape.
        limits: first frame that is compared, and the one after the last, of each row of a stage.
        tolerance: largest difference, relative to the largest value of the stage; 0 demands equal bits.
    """
    for (stage, a), (_, b) in zip(one, other, strict=True):
        frames = min(a.shape[1], b.shape[1])
        found = _differing(a[:, :frames], b[:, :frames], tolerance) & _between(*limits(stage), a, frames)
        if found.any():
            return Difference(stage, int(found.any(0).nonzero()[0]))
    return None


def _differing(a: Tensor, b: Tensor, tolerance: float) -> Tensor:
    if tolerance:
        far = (a - b).abs() > tolerance * max(1.0, float(a.abs().max()) if a.numel() else 1.0)
        return (far | (a.isnan() != b.isnan())).flatten(2).any(-1)
    return ((a != b) & ~(a.isnan() & b.isnan())).flatten(2).any(-1)


def _between(first: Tensor | int, last: Tensor | int, like: Tensor, frames: int) -> Tensor:
    time = torch.arange(frames, device=like.device)
    start, end = (torch.as_tensor(x, device=like.device).reshape(-1, 1) for x in (first, last))
    return (time >= start) & (time < end)
