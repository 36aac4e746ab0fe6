"""Streaming inference of an exported graph with onnxruntime, with the interface of `StreamingSession`."""

from __future__ import annotations

import importlib
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamnest.errors import UserError
from streamnest.files.plain_data import first_line
from streamnest.streaming.graph_metadata import read_metadata
from streamnest.streaming.session_base import Session

METADATA = "streamnest"


@dataclass
class _Stream:
    state: dict[str, np.ndarray]
    pending: np.ndarray
    num_samples_in: int = 0
    emitted: int = 0
    end: int | None = None
    out: list[np.ndarray] = field(default_factory=list)


class OnnxSession(Session[_Stream]):
    """Batched inference for concurrent streams through a file of `streamnest export`.

    Streams at different positions share a step, up to the batch size of the file; a fixed batch is filled up with
    silence.

    Args:
        path: exported model.
        threads: CPU threads.

    Raises:
        UserError: for files that streamnest did not export, for streams that are not open, and if onnxruntime is
            missing.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        super().__init__()
        self.path = str(path)
        self._runtime, self.metadata = _open(path, threads)
        m = self.metadata
        self.sample_rate, self.frame_ms = int(m["sample_rate"]), float(m["frame_ms"])
        self.chunk_samples, self.first_samples = int(m["chunk_samples"]), int(m["first_samples"])
        self.target_shift = int(m["stem"] == "shifted")
        self._output, self._size = "encoded", int(m["d_model"])

    @property
    def device(self) -> torch.device:
        """Device of the computation: exported graphs run on the CPU."""
        return torch.device("cpu")

    def of_head(self) -> OnnxSession:
        """Returns a session of the same graph that emits the outputs of its head `(k, size)`.

        Raises:
            UserError: for a graph without a head.
        """
        head = self.metadata.get("head")
        if not isinstance(head, dict):
            raise UserError("the exported model has no head: export a checkpoint of task=ctc or task=diarization")
        output, size = head.get("output"), head.get("size")
        if (output, size) not in [(one.name, one.shape[-1]) for one in self._runtime.get_outputs()]:
            raise UserError(
                f"{self.path}: the graph has no output {output!r} of size {size!r}: export the checkpoint again"
            )
        other = copy(self)
        Session.__init__(other)
        other._output, other._size = str(output), int(size or 0)
        return other

    def windowed(self, number: int) -> bool:
        """True if a stream with unlimited left context has outgrown the cap and uses a window of its past."""
        with self.lock:
            emitted, cap = self._stream(number).emitted - int(self.metadata["warmup_frames"]), self.cap_frames
        return cap is not None and emitted > cap

    @property
    def cap_frames(self) -> int | None:
        """Leading frames of a stream that equal offline ones if the left context is unlimited; None if all do."""
        m = self.metadata
        return int(m["left_frames"]) - int(m["warmup_frames"]) if m["left_unlimited"] else None

    def num_frames(self, samples: int) -> int:
        """Number of encoder frames of a stream of `samples` samples."""
        frames = samples // int(self.metadata["hop_samples"])
        for _ in range(int(self.metadata["stem_stages"]) if frames else 0):
            frames = (frames + 1) // 2 if self.metadata["stem"] == "aligned" else frames // 2 + 1
        return frames

    def _new(self) -> _Stream:
        state = {}
        for entry in self.metadata["state"]:
            value = np.asarray(entry["initial"], dtype=entry["dtype"])
            state[entry["name"]] = np.broadcast_to(value, (1, *entry["shape"][1:])).copy()
        return _Stream(state, np.zeros(int(self.metadata["initial_zeros"]), np.float32))

    def _total(self, samples: int) -> int:
        frames = self.num_frames(samples)
        return frames + int(self.metadata["warmup_frames"]) if frames else 0

    def _is_ready(self, stream: _Stream) -> bool:
        if stream.end is None:
            return len(stream.pending) >= int(self.metadata["window_samples"])
        return stream.emitted < self._total(stream.end)

    def _append(self, stream: _Stream, piece: Tensor) -> None:
        stream.pending = np.concatenate([stream.pending, piece.to("cpu", torch.float32).numpy()])

    def _run(self, streams: list[_Stream]) -> None:
        """Steps all streams that have a complete window, in batches of the size of the graph, until none has."""
        while ready := [stream for stream in streams if self._is_ready(stream)]:
            size = self.metadata["batch"] or len(ready)
            for first in range(0, len(ready), size):
                self._step(ready[first : first + size])
        for stream in streams:
            # A view would keep all samples of a long piece in memory while the stream pauses.
            stream.pending = stream.pending.copy() if stream.pending.base is not None else stream.pending

    def _step(self, group: list[_Stream]) -> None:
        m = self.metadata
        rows = group + [self._new() for _ in range((m["batch"] or len(group)) - len(group))]
        audio = np.zeros((len(rows), int(m["window_samples"])), np.float32)
        for row, stream in enumerate(rows):
            piece = stream.pending[: audio.shape[1]]
            audio[row, : len(piece)] = piece
        ends = np.array([m["open_end"] if s.end is None else s.end for s in rows], np.int64)
        names = [entry["name"] for entry in m["state"]]
        state = {name: _concatenated([stream.state[name] for stream in rows]) for name in names}
        outputs = [self._output, *(entry["output"] for entry in m["state"])]
        encoded, *after = self._runtime.run(outputs, {"audio": audio, "end": ends, **state})
        self._check_frames(encoded, len(rows))
        for row, stream in enumerate(group):
            # A view would keep the whole batch in memory while the stream pauses.
            alone = len(rows) == 1
            stream.state = {n: x if alone else x[row : row + 1].copy() for n, x in zip(names, after, strict=True)}
            stream.pending = stream.pending[self.chunk_samples :]
            self._emit(stream, encoded[row])

    def _check_frames(self, encoded: np.ndarray, rows: int) -> None:
        """Refuses a step of another shape: without frames, a stream would never end."""
        expected = (rows, int(self.metadata["chunk_frames"]), self._size)
        if encoded.shape != expected:
            raise UserError(
                f"{self.path}: a step of the graph returns {encoded.shape} instead of {expected}: export the "
                "checkpoint again"
            )

    def _emit(self, stream: _Stream, encoded: np.ndarray) -> None:
        first = max(0, int(self.metadata["warmup_frames"]) - stream.emitted)
        last = len(encoded) if stream.end is None else self._total(stream.end) - stream.emitted
        stream.out.append(encoded[first:last])
        stream.emitted += len(encoded)

    def _take(self, stream: _Stream) -> Tensor:
        frames, stream.out = stream.out, []
        return torch.from_numpy(np.concatenate(frames or [np.zeros((0, self._size), np.float32)]))


def require(name: str) -> Any:
    """Imports a package of the `export` extra.

    Raises:
        UserError: if it is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} cannot be imported ({error}): run pip install -e '.[export]'") from None


def _open(path: str | Path, threads: int) -> tuple[Any, dict[str, Any]]:
    runtime = require("onnxruntime")
    if not Path(path).is_file():
        raise UserError(f"no exported model at {path}")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no other base class
        raise UserError(f"{path} is not an ONNX model that onnxruntime can run: {first_line(error)}") from None
    entries = session.get_modelmeta().custom_metadata_map
    if "window_size" in entries and METADATA not in entries:
        raise UserError(f"{path} is for sherpa-onnx: use the checkpoint, or export it without --format sherpa")
    return session, read_metadata(entries.get(METADATA), session, path)


def _concatenated(rows: list[np.ndarray]) -> np.ndarray:
    return rows[0] if len(rows) == 1 else np.concatenate(rows)
