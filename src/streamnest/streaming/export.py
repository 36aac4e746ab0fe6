"""The streaming step as one ONNX graph: a window of audio and an explicit state in, frames and the next state out.

The graph is `session.step` of one chunk, always of the same size. What makes the first chunk of a stream different is
in the initial values: the window begins with zeros, and the count of feature frames is negative where the stem would
hear fewer than a chunk of them.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from streamnest import __version__
from streamnest.config.stored import task_name
from streamnest.encoder.attention import FINITE_MASKED
from streamnest.encoder.state import OPEN_END, STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.frontend import _LOG_GUARD, FrontendState, LogMel
from streamnest.streaming.graph_metadata import FORMAT
from streamnest.streaming.heads import ExportedHead
from streamnest.streaming.onnx_session import METADATA, require
from streamnest.streaming.session import StreamingSession
from streamnest.streaming.step import StreamState, init_state, step

OPSET = 18
HEAD_MEMORY = "head_memory"
# A protobuf message ends at 2 GiB; larger models keep their weights in a file beside it.
_ONE_FILE_BYTES = 1_900_000_000


class MatrixLogMel(LogMel):
    """`LogMel` with the DFT as a matrix product, which every runtime has; as exact as the FFT for 400 samples."""

    dft: Tensor

    @classmethod
    def replace(cls, frontend: LogMel) -> None:
        """Turns a front end into this kind."""
        time = torch.arange(len(frontend.window), dtype=torch.float64)[:, None]
        angle = 2 * math.pi / frontend.n_fft * (time * torch.arange(frontend.n_fft // 2 + 1) % frontend.n_fft)
        waves = frontend.window.double()[:, None] * torch.cat([angle.cos(), angle.sin()], dim=1)
        frontend.register_buffer("dft", waves.to(frontend.window.dtype), persistent=False)
        frontend.__class__ = cls

    def from_frames(self, frames: Tensor) -> Tensor:
        """See `LogMel.from_frames`."""
        real, imaginary = (frames @ self.dft).chunk(2, dim=-1)
        return torch.log((real.square() + imaginary.square()) @ self.filterbank + _LOG_GUARD)


class ExportedStep(nn.Module):
    """One chunk of a batch of streams, with a flat state.

    `(B, window_samples)` audio, `(B,)` ends and the tensors of the state -> `(B, chunk, d)`, the next ones, and the
    outputs of the head of the task if it has one.

    Args:
        model: that can stream; is copied.
        max_left_ms: the cap of an unlimited left context, see `FastConformer.init_state`.

    Raises:
        UserError: for models that cannot stream.
    """

    def __init__(self, model: EncoderTask, max_left_ms: float = STREAM_LEFT_MS) -> None:
        super().__init__()
        session = StreamingSession(model, max_left_ms)  # refuses what cannot stream
        self.model = copy.deepcopy(model).float().cpu().eval()
        MatrixLogMel.replace(self.model.frontend)
        self.model.input_norm._require_statistics()
        # A question to a tensor, which a graph cannot ask; it was asked here.
        self.model.input_norm._require_statistics = lambda: None  # type: ignore[method-assign]
        for block in self.model.encoder.layers:
            block.attention.masked_score = FINITE_MASKED
        frontend, encoder = model.frontend, model.encoder
        features = encoder.chunk * encoder.subsampling.factor
        # Frames of warm-up are chunks like any other here, dropped by who drives the graph.
        self.missing = -encoder.subsampling.lookahead
        warmup = encoder.warmup * encoder.subsampling.factor * frontend.hop
        self.reach = len(frontend.window) // 2
        self.window_samples = (features - 1) * frontend.hop + len(frontend.window) + 1
        self.chunk_samples, self.first_samples = session.chunk_samples, session.first_samples - warmup
        self.initial_zeros = self.window_samples - self.first_samples
        self.head = self.model.exported_head()
        self.eval()
        self._lay_out(init_state(self.model, 1, max_left_ms))

    def _lay_out(self, state: StreamState) -> None:
        """Finds the tensors that a step changes, and their sizes once a stream runs."""
        _, early = step(self.model, torch.zeros(1, self.first_samples), state)
        _, late = step(self.model, torch.zeros(1, self.chunk_samples), early)
        self.template = late
        initial, before, after = (_named(s) for s in (state, early, late))
        self.carried = [name for name in after if after[name] is not before[name]]
        # Some pasts are longer at the very start; they are constant there, so that the end of them is all of them.
        self.initial = {name: _last(initial[name], after[name].shape) for name in initial}
        for name in self.carried:
            if name in ("num_features", "norm_frames"):
                self.initial[name] = self.initial[name] - self.missing
        if self.head and self.head.memory_size:
            self.initial[HEAD_MEMORY] = torch.zeros(1, self.head.memory_size)
            self.carried.append(HEAD_MEMORY)

    def forward(self, window: Tensor, end: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One step.

        Args:
            window: `(B, window_samples)`: the samples of this chunk, and before them those that it shares with the
                window of the chunk before.
            end: `(B,)` samples in each whole stream, where it is over; `OPEN_END` elsewhere.
            state: the tensors named in `carried`, of the step before.
        """
        values = {**self.initial, **dict(zip(self.carried, state, strict=True))}
        tensors = iter(values.values())
        norm, encoder = _rebuild(self.template.norm, tensors), _rebuild(self.template.encoder, tensors)
        position = encoder.num_features * self.model.frontend.hop - self.reach
        frontend = FrontendState(window[:, :1], window[:, :0], position, encoder.num_features)
        encoded, after = step(self.model, window[:, 1:], StreamState(frontend, norm, encoder), end)
        found = _named(after)
        if self.head is None:
            return encoded, *(found[name] for name in self.carried)
        outputs, found[HEAD_MEMORY] = self.head(encoded, self._valid(encoder.position), values.get(HEAD_MEMORY))
        return encoded, *(found[name] for name in self.carried), outputs

    def _valid(self, position: Tensor) -> Tensor | None:
        """Which frames of a step are behind the warm-up, of streams that have emitted `position` `(B,)` frames."""
        warmup, chunk = self.model.encoder.warmup, self.model.encoder.chunk
        return position[:, None] + torch.arange(chunk) >= warmup if warmup else None

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        """The first inputs of `batch` streams of silence."""
        state = [self.initial[name].expand(batch, *self.initial[name].shape[1:]).clone() for name in self.carried]
        return torch.zeros(batch, self.window_samples), torch.full((batch,), OPEN_END), *state


def export_step(
    model: EncoderTask, path: str | Path, batch: int | None = 1, max_left_ms: float = STREAM_LEFT_MS
) -> dict[str, Any]:
    """Writes the streaming step of a model as ONNX.

    Args:
        model: that can stream.
        path: of the file.
        batch: streams in a step; None leaves it open.
        max_left_ms: the cap of an unlimited left context, see `FastConformer.init_state`.

    Returns:
        The metadata that the file carries, see `describe`.

    Raises:
        UserError: for models that cannot stream, and where the export packages are missing.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package)
    graph = ExportedStep(model, max_left_ms)
    size, metadata = batch or 2, describe(model, graph, batch)
    axes = None
    if batch is None:
        axis = {0: torch.export.Dim("batch")}
        axes = (axis, axis, tuple(axis for _ in graph.carried))
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # of torchvision
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            graph,
            graph.inputs(size),
            dynamo=True,
            opset_version=OPSET,
            input_names=["audio", "end", *graph.carried],
            output_names=["encoded", *(entry["output"] for entry in metadata["state"]), *_outputs(graph.head)],
            dynamic_shapes=axes,
            verbose=False,
        )
    _remove_traces(program.model)
    program.model.metadata_props[METADATA] = json.dumps(metadata)
    weights = sum(4 * parameter.numel() for parameter in model.encoder.parameters())
    program.save(str(path), external_data=weights > _ONE_FILE_BYTES)
    return metadata


def _remove_traces(model: Any) -> None:
    """Removes the stack traces that the exporter keeps for each node: they name files of this machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None


def _outputs(head: ExportedHead | None) -> list[str]:
    return [head.output] if head else []


def describe(model: EncoderTask, graph: ExportedStep, batch: int | None) -> dict[str, Any]:
    """Metadata that a program needs to drive the graph; docs/EXPORT.md explains each entry."""
    encoder, frontend, config = model.encoder, model.frontend, model.config
    latency = {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in asdict(model.latency).items()}
    past = graph.initial["layers_0_attention_past"]
    return {
        "format": FORMAT,
        "streamnest": __version__,
        "preset": config.get("preset"),
        "context": encoder.context_name,
        "batch": batch,
        "quantization": None,
        "task": task_name(config) if config else None,
        "head": graph.head.describe() if graph.head else None,
        "sample_rate": frontend.sample_rate,
        "hop_samples": frontend.hop,
        "chunk_samples": graph.chunk_samples,
        "first_samples": graph.first_samples,
        "window_samples": graph.window_samples,
        "initial_zeros": graph.initial_zeros,
        "open_end": OPEN_END,
        "frame_ms": encoder.frame_ms,
        "chunk_frames": encoder.chunk,
        "warmup_frames": encoder.warmup,
        "d_model": encoder.d_model,
        "stem": encoder.subsampling.scheme,
        "stem_stages": encoder.subsampling.factor.bit_length() - 1,
        "left_frames": past.shape[1],
        "left_unlimited": encoder.context.left is None,
        "state": [_describe_tensor(name, graph.initial[name], batch) for name in graph.carried],
        "latency": latency,
        "config": {group: config.get(group) for group in ("frontend", "encoder")},
    }


def _describe_tensor(name: str, initial: Tensor, batch: int | None) -> dict[str, Any]:
    """A tensor of the state; its initial values as one number where they are all the same."""
    same = bool((initial == initial.flatten()[0]).all()) if initial.numel() else True
    value = (initial.flatten()[0].item() if initial.numel() else 0) if same else initial[0].tolist()
    kind = str(initial.dtype).removeprefix("torch.")
    shape = [batch, *initial.shape[1:]]
    return {"name": name, "output": f"next_{name}", "shape": shape, "dtype": kind, "initial": value}


def _named(state: StreamState) -> dict[str, Tensor]:
    """Tensors by name, without those of the front end, which the window and `num_features` replace."""
    return dict([*_flatten(state.norm, "norm"), *_flatten(state.encoder)])


def _flatten(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of nested tuples: `blocks_0_attention_past`."""
    if isinstance(state, Tensor):
        yield name, state
        return
    labels = getattr(state, "_fields", range(len(state)))
    for label, part in zip(labels, state, strict=True):
        yield from _flatten(part, f"{name}_{label}" if name else str(label))


def _rebuild(template: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(template, Tensor):
        return next(tensors)
    parts = [_rebuild(part, tensors) for part in template]
    return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)


def _last(x: Tensor, shape: torch.Size) -> Tensor:
    for dim, size in enumerate(shape):
        x = x.narrow(dim, x.shape[dim] - size, size)
    return x
