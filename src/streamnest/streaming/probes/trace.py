"""Recording of the output of every stage, and search for the first stage in which two runs differ."""

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
# For a stage: first frame of each row that is compared, and first frame that is not compared anymore, `(B,)`.
FrameLimits = Callable[[Stage], tuple[Tensor | int, Tensor | int]]


class Leak(NamedTuple):
    """The first stage that depends on audio that it must not depend on, and the conditions under which it does."""

    place: str
    stage: Stage
    frame: int


class Difference(NamedTuple):
    """The first frame, of any row, of the first stage in which two runs differ."""

    stage: Stage
    frame: int

    def at(self, place: str) -> Leak:
        """Returns the leak that the difference shows, under the conditions `place`."""
        return Leak(place, *self)


@contextmanager
def recorded(model: EncoderTask, path: str) -> Iterator[Trace]:
    """Records the output of the stages of a model, in the order in which they are computed.

    The offline branch of dual mode is left out: its outputs are targets, and may depend on later audio.

    Args:
        model: model to record.
        path: label of the computation between normalization and encoder.
    """
    trace: Trace = []
    frames: list[int] = []

    def record(stage: Stage, output: Any) -> None:
        if model.encoder.is_offline:
            return
        tensor = output[0] if isinstance(output, tuple) else output
        if stage.kind == "subsampling":
            frames.append(tensor.shape[1])
        elif stage.kind in ("attention", "convolution", "layer"):
            tensor = tensor[:, : frames[-1]]  # copies of right context follow the frames of the utterance
        trace.append((stage, (tensor.transpose(1, 2) if stage.kind == "features" else tensor).detach()))

    def before(stage: Stage) -> Callable[..., None]:
        return lambda _m, args, kwargs: record(stage, args[0] if args else next(iter(kwargs.values())))

    handles = [
        module.register_forward_hook(lambda _m, _i, out, stage=stage: record(stage, out))
        for stage, module in _modules(model)
    ]
    handles.append(model.encoder.register_forward_pre_hook(before(Stage(path, "features")), with_kwargs=True))
    if isinstance(model, Pretraining):
        output = Stage(f"{path} after the encoder", "by target")
        handles.append(model.objective.register_forward_pre_hook(before(output), with_kwargs=True))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def _modules(model: EncoderTask) -> list[tuple[Stage, nn.Module]]:
    encoder = model.encoder
    modules: list[tuple[Stage, nn.Module]] = [
        (Stage("front end", "features"), model.frontend),
        (Stage("normalization", "features"), model.input_norm),
        (Stage("subsampling", "subsampling"), encoder.subsampling),
    ]
    for number, layer in enumerate(encoder.layers):
        modules += [
            (Stage(f"layer {number} attention", "attention", number), layer.attention),
            (Stage(f"layer {number} convolution", "convolution", number), layer.convolution),
            (Stage(f"layer {number}", "layer", number), layer),
        ]
    return [*modules, (Stage("encoder output", "encoder"), encoder)]


def first_difference(one: Trace, other: Trace, limits: FrameLimits, tolerance: float = 0.0) -> Difference | None:
    """Finds the first stage in which two runs differ within `limits`; None if they agree.

    Args:
        one: trace from `recorded`.
        other: trace of audio of the same shape.
        limits: range of frames that are compared, for each row of a stage.
        tolerance: largest difference, relative to the largest value of the stage; 0 requires equal bits.
    """
    for (stage, a), (_, b) in zip(one, other, strict=True):
        frames = min(a.shape[1], b.shape[1])
        differs = _differing(a[:, :frames], b[:, :frames], tolerance) & _between(*limits(stage), a, frames)
        if differs.any():
            return Difference(stage, int(differs.any(0).nonzero()[0]))
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
