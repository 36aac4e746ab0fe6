"""The streaming step in the interface that sherpa-onnx has for streaming NeMo models.

The runtime computes the features, calls the graph with one chunk of them, and keeps three states between calls, which
begin as zeros: two float tensors and a counter. It matches inputs and outputs by their position.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from streamnest.encoder.state import OPEN_END, STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.frontend import ENERGY_FLOOR, LOG_GUARD, FrontendState, LogMel
from streamnest.streaming.exported_step import ExportedStep, named, rebuild
from streamnest.streaming.step import StreamState, step

# Counters of the state, which follow from the number of steps.
_COUNTERS = ("num_features", "norm_frames", "position")


class ReceivedFeatures(nn.Module):
    """Front end of a graph that receives features of the kind "sherpa" in place of audio.

    Args:
        frontend: front end that the model was trained with.
    """

    def __init__(self, frontend: LogMel) -> None:
        super().__init__()
        self.kind, self.hop = frontend.kind, frontend.hop

    def num_frames(self, samples: Tensor) -> Tensor:
        """Implements `LogMel.num_frames`."""
        return samples // self.hop

    def step(self, features: Tensor, state: FrontendState, end: Tensor | None = None) -> tuple[Tensor, FrontendState]:
        """Implements `LogMel.step` for features `(B, num_mels, T)` instead of audio, without a change of the state."""
        return corrected(features, self.kind), state


def corrected(features: Tensor, kind: str) -> Tensor:
    """Converts features of the runtime to those of a front end, as far as possible.

    Features of the kind "nest" have another window and begin 5 ms earlier, which cannot be corrected. Their logarithm
    can be, except in bands below the floor of the runtime: they are taken for digital silence.
    """
    if kind == "sherpa":
        return features
    energy = features.exp()
    return torch.log(torch.where(energy > ENERGY_FLOOR * (1 + 1e-5), energy, 0.0) + LOG_GUARD)


class SherpaStep(ExportedStep):
    """Step of one chunk: features and three states -> outputs and the next states.

    Args:
        model: model to export; a copy is used.
        output: module from encoder frames `(B, k, d)` and a mask of valid frames (None if all are) to the first output.
        max_left_ms: cap of an unlimited left context.

    Attributes:
        window: feature frames of a step.
        sizes: elements of the two float states of a stream.
    """

    def __init__(self, model: EncoderTask, output: nn.Module, max_left_ms: float = STREAM_LEFT_MS) -> None:
        super().__init__(model, max_left_ms)
        encoder, self.output = self.model.encoder, output
        self.window = encoder.chunk * encoder.subsampling.factor
        self.model.frontend = ReceivedFeatures(model.frontend)  # type: ignore[assignment]
        past = {name: self.initial[name] for name in self.carried if name not in _COUNTERS}
        if any(bool(x.any()) for x in past.values()):
            raise RuntimeError("sherpa-onnx begins with zeros, but a state of this model does not")
        self.attention = {name: x for name, x in past.items() if name.endswith("attention_past")}
        # The first features of the shifted subsampling lie before the stream: those of the stream are delayed.
        delayed = {"delayed": torch.zeros(1, encoder.num_mels, self.missing)}
        self.rest = delayed | {name: x for name, x in past.items() if name not in self.attention}
        self.sizes = tuple(_pack(part.values()).shape[-1] for part in (self.attention, self.rest))

    def forward(  # type: ignore[override]
        self, features: Tensor, length: Tensor, attention: Tensor, rest: Tensor, steps: Tensor
    ) -> tuple[Tensor, ...]:
        """Computes one step.

        Args:
            features: `(B, num_mels, window)`.
            length: `(B,)` number of features; always `window`.
            attention: `(B, 1, 1, sizes[0])` past of attention.
            rest: `(B, 1, 1, sizes[1])` other states.
            steps: `(B,)` steps before this one.

        Returns:
            Result of `output`, its number of frames `(B,)`, and the next three states.
        """
        past = _unpack(attention, self.attention) | _unpack(rest, self.rest)
        features = torch.cat([past.pop("delayed"), features], dim=-1)
        frames = steps * self.window - self.missing
        counters = {"num_features": frames, "norm_frames": frames, "position": steps * self.model.encoder.chunk}
        tensors = iter((self.initial | counters | past).values())
        norm, encoder = rebuild(self.template.norm, tensors), rebuild(self.template.encoder, tensors)
        state = StreamState(FrontendState(frames, frames, frames, frames), norm, encoder)
        end = torch.full_like(steps, OPEN_END)
        encoded, after = step(self.model, features[:, :, : self.window], state, end)
        tensors_after = named(after) | {"delayed": features[:, :, self.window :]}
        output = self.output(encoded, self._valid(encoder.position))
        number = torch.full_like(steps, output.shape[1])
        packed = (_pack([tensors_after[name] for name in part]) for part in (self.attention, self.rest))
        return output, number, *packed, steps + 1

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Returns inputs for the first step of `batch` streams of silence."""
        features = torch.full((batch, self.model.encoder.num_mels, self.window), math.log(ENERGY_FLOOR))
        steps = torch.zeros(batch, dtype=torch.long)
        states = (torch.zeros(batch, 1, 1, size) for size in self.sizes)
        return features, torch.full_like(steps, self.window), *states, steps


def _pack(tensors: Iterable[Tensor]) -> Tensor:
    """Concatenates states `(B, ...)` as `(B, 1, 1, n)` float32; a float64 value takes two numbers, its parts."""
    flat = []
    for x in tensors:
        high = x.flatten(1).float()
        flat += [high, (x.flatten(1) - high).float()] if x.dtype == torch.float64 else [high]
    return torch.cat(flat, dim=1)[:, None, None]


def _unpack(packed: Tensor, initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Restores the states that `_pack` was given, with the names, shapes and types of `initial`."""
    doubles = [2 if x.dtype == torch.float64 else 1 for x in initial.values()]
    sizes = [x[0].numel() * n for x, n in zip(initial.values(), doubles, strict=True)]
    parts = packed[:, 0, 0].split(sizes, dim=1)
    found = {}
    for (name, like), part in zip(initial.items(), parts, strict=True):
        halves: Sequence[Tensor] = part.chunk(2, dim=1) if like.dtype == torch.float64 else (part,)
        value = halves[0].to(like.dtype) + halves[1] if len(halves) > 1 else halves[0]
        found[name] = value.unflatten(1, like.shape[1:])
    return found
