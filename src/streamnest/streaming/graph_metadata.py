"""Validation of the metadata of an exported graph: types, ranges and agreement with the graph."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from streamnest.errors import UserError
from streamnest.files.plain_data import check_value, of_file, require_plain, short, typed

FORMAT = 1
_MAX_BYTES = 64 << 20
# Largest number of elements in the state of a stream.
_MAX_STATE = 1 << 30
_TYPES = {"float32": "tensor(float)", "float64": "tensor(double)", "int64": "tensor(int64)"}
_DIMENSION = {"shape": (0, 1 << 24)}
_LIMITS = {
    **{"batch": (1, 4096), "sample_rate": (1000, 768_000), "hop_samples": (1, 768_000), "initial_zeros": (0, 1 << 24)},
    **{"chunk_samples": (1, 1 << 24), "first_samples": (-(1 << 24), 1 << 24), "window_samples": (1, 1 << 24)},
    **{"open_end": (1 << 30, 1 << 62), "chunk_frames": (1, 1 << 20), "warmup_frames": (0, 1 << 20)},
    **{"d_model": (1, 1 << 16), "stem_stages": (1, 6), "left_frames": (0, 1 << 24), "frame_ms": (1, 10_000)},
    **{"latency_mean_ms": (0, 1e9), "latency_worst_ms": (0, 1e9)},
}


@dataclass
class StateEntry:
    """A tensor of the state: names of its input and output, shape (None for a dynamic batch), type, initial value."""

    name: str
    output: str
    shape: list[Any]
    dtype: str
    initial: Any


@dataclass
class StepMetadata:
    """Metadata that a program needs to run the graph; docs/EXPORT.md explains each entry. All are required."""

    sample_rate: int
    hop_samples: int
    chunk_samples: int
    first_samples: int
    window_samples: int
    initial_zeros: int
    open_end: int
    frame_ms: float
    chunk_frames: int
    warmup_frames: int
    d_model: int
    stem: str
    stem_stages: int
    left_frames: int
    left_unlimited: bool
    state: list[StateEntry]
    batch: int | None
    context: str | None


def read_metadata(stored: str | None, graph: Any, path: str | Path) -> dict[str, Any]:
    """Checks the metadata of a file.

    Args:
        stored: metadata of the file, JSON.
        graph: onnxruntime session with the actual inputs and outputs.
        path: path of the file.

    Raises:
        UserError: naming the entry that is missing, has another type, is out of range, or contradicts the graph.
    """
    if not stored or len(stored) > _MAX_BYTES:
        raise UserError(f"{path} was not exported by streamnest: create it with streamnest export")
    with of_file(path):
        metadata = json.loads(stored)
        require_plain(metadata, "metadata", interpolations=True)
        if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
            raise UserError("it was not exported by this version of streamnest: create it with streamnest export")
        names = [field.name for field in fields(StepMetadata)]
        if missing := [name for name in (*names, "latency") if name not in metadata]:
            raise UserError(f"its metadata has no {', '.join(missing)}: create it with streamnest export")
        known = typed(StepMetadata, {name: metadata[name] for name in names}, "metadata", _LIMITS)
        _check_latency(metadata["latency"])
        _check_sizes(known)
        _check_graph(known, graph)
        return metadata


def _check_latency(latency: Any) -> None:
    if not isinstance(latency, dict):
        raise UserError(f"metadata.latency={short(latency)} must be a mapping")
    for name in ("latency_mean_ms", "latency_worst_ms"):
        check_value(float, latency.get(name), f"metadata.latency.{name}", _LIMITS)
    for name, value in latency.items():
        if value is not None and type(value) not in (bool, int, float):
            raise UserError(f"metadata.latency.{name}={short(value)} must be a number or null")


def _check_sizes(m: StepMetadata) -> None:
    """Refuses sizes that contradict each other, such as a chunk of other than its own samples."""
    if m.stem not in ("aligned", "shifted"):
        raise UserError(f"metadata.stem={short(m.stem)} is unknown: it must be aligned or shifted")
    samples = m.chunk_frames * m.hop_samples << m.stem_stages
    if m.chunk_samples != samples or m.chunk_samples > m.window_samples:
        raise UserError(
            f"metadata.chunk_samples={m.chunk_samples} must be {samples} for {m.chunk_frames} frames, and at most "
            f"window_samples={m.window_samples}"
        )
    if m.first_samples != m.window_samples - m.initial_zeros:
        raise UserError(f"metadata.first_samples={m.first_samples} must be window_samples minus initial_zeros")
    frame_ms = 1000 * (m.hop_samples << m.stem_stages) / m.sample_rate
    if not math.isclose(m.frame_ms, frame_ms, rel_tol=0.02):
        raise UserError(f"metadata.frame_ms={m.frame_ms:g} must be {frame_ms:g} at {m.sample_rate} Hz")


def _check_graph(m: StepMetadata, graph: Any) -> None:
    """Compares names, shapes and types with the graph, and checks the initial value of every state."""
    inputs = {one.name: one for one in graph.get_inputs()}
    outputs = {one.name: one for one in graph.get_outputs()}
    wanted = {"audio": ("float32", [m.batch, m.window_samples]), "end": ("int64", [m.batch])}
    size = 0
    for entry in m.state:
        if entry.name in wanted or entry.dtype not in _TYPES or not entry.shape or entry.shape[0] != m.batch:
            raise UserError(f"metadata.state: {short(entry.name)} occurs twice, or has another batch or type")
        where = f"metadata.state.{short(entry.name, '')}.shape"
        size += math.prod(check_value(int, n, where, _DIMENSION) for n in entry.shape[1:])
        wanted[entry.name] = (entry.dtype, entry.shape)
    if size > _MAX_STATE:
        raise UserError(f"metadata.state has {size} elements per stream: at most {_MAX_STATE} are allowed")
    if set(inputs) != set(wanted):
        raise UserError(f"metadata and graph have different inputs, such as {short(min(set(inputs) ^ set(wanted)))}")
    for name, (dtype, shape) in wanted.items():
        if inputs[name].type != _TYPES[dtype] or not _fits(inputs[name].shape, shape):
            actual = f"{inputs[name].type} {inputs[name].shape}"
            raise UserError(f"input {short(name)} of the graph is {actual}, but by its metadata {dtype} {shape}")
    results = {"encoded": [m.batch, m.chunk_frames, m.d_model], **{entry.output: entry.shape for entry in m.state}}
    for name, shape in results.items():
        if name not in outputs or not _fits(outputs[name].shape, shape, loose=True):
            raise UserError(
                f"output {short(name)} of the graph is missing, or its shape is not {shape} as in the metadata"
            )
    for entry in m.state:
        with np.errstate(over="ignore"):
            initial = np.asarray(entry.initial, dtype=entry.dtype)
        np.broadcast_to(initial, (1, *entry.shape[1:]))
        if not np.isfinite(initial).all():
            raise UserError(f"metadata.state: the initial value of {short(entry.name)} is not finite")


def _fits(actual: Sequence[Any], wanted: Sequence[Any], loose: bool = False) -> bool:
    """True if a shape of the graph matches the metadata; sizes may be dynamic in both, and in outputs always."""
    if len(actual) != len(wanted):
        return False
    pairs = zip(actual, wanted, strict=True)
    return all(a == b if isinstance(a, int) else b is None or loose for a, b in pairs)
