"""Comparison of files for sherpa-onnx with the model that they come from, without the runtime."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import edit_distance

from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.vocabulary import join
from streamnest.encoder_task import EncoderTask
from streamnest.frontend import LogMel
from streamnest.interop.sherpa.step import SherpaStep, corrected
from streamnest.streaming.onnx_session import require
from streamnest.streaming.session import StreamingSession


class RuntimeLogMel(LogMel):
    """Features that a graph computes with: those of the runtime, corrected for the front end of the model.

    Args:
        trained_kind: kind of front end that the model was trained with.
    """

    def __init__(self, trained_kind: str) -> None:
        super().__init__(kind="sherpa")
        self.trained_kind = trained_kind

    def logarithm(self, energy: Tensor) -> Tensor:
        """Implements `LogMel.logarithm`."""
        return corrected(super().logarithm(energy), self.trained_kind)


def in_runtime(model: TextTask) -> TextTask:
    """Returns a copy of a model that computes with the features of the runtime."""
    other = copy.deepcopy(model).float().cpu().eval()
    other.frontend = RuntimeLogMel(model.frontend.kind).eval()
    return other


@torch.no_grad()
def run_graph(path: Path, audio: Tensor, threads: int = 1) -> tuple[Tensor, list[float]]:
    """Runs the graph of a step over audio `(N,)` as the runtime does; returns its outputs and the seconds of each step.

    Outputs are `(frames, V)` log-probabilities, or `(frames, J + 1)` projected frames of a transducer.
    """
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    entries = session.get_modelmeta().custom_metadata_map
    window, shift = int(entries["window_size"]), int(entries["chunk_shift"])
    names = [one.name for one in session.get_inputs()]
    sizes = [[int(entries[f"cache_last_{kind}_dim{n}"]) for n in (1, 2, 3)] for kind in ("channel", "time")]
    states = [*(np.zeros([1, *size], np.float32) for size in sizes), np.zeros(1, np.int64)]
    features = LogMel(kind="sherpa").eval()(audio[None], torch.tensor([len(audio)]))[0].numpy()
    outputs, seconds = [], []
    # The runtime waits for one frame more than it takes.
    for start in range(0, features.shape[-1] - window, shift):
        piece = np.ascontiguousarray(features[:, :, start : start + window])
        begin = time.perf_counter()
        first, _, *states = session.run(None, dict(zip(names, (piece, np.array([window]), *states), strict=True)))
        seconds.append(time.perf_counter() - begin)
        outputs.append(torch.from_numpy(first[0].T if "pred_hidden" in entries else first[0]))
    return torch.cat(outputs), seconds


class RuntimeComparison:
    """Compares graphs with their model on one utterance.

    Args:
        model: model that was exported.
        graph: its step.
        audio: utterance `(N,)`; silence is appended, so that the runtime emits all of it.
        max_left_ms: cap of an unlimited left context.
    """

    def __init__(self, model: TextTask, graph: SherpaStep, audio: Tensor, max_left_ms: float) -> None:
        self.model, self.graph, self.max_left_ms = model, graph, max_left_ms
        self.audio = torch.cat([audio, audio.new_zeros(round(timing(model, graph).tail_ms * model.sample_rate / 1000))])
        self.text, _ = self._streamed(model)
        _, self.reference = self._streamed(in_runtime(model))

    @torch.no_grad()
    def _streamed(self, model: TextTask) -> tuple[str, Tensor]:
        """Returns the text of `transcribe --stream` and the inputs of decoding."""
        session = StreamingSession(model, self.max_left_ms)
        number = session.open()
        frames = torch.cat([session.push({number: self.audio})[number], session.flush([number])[number]])
        outputs = model.outputs(frames[None])[0]
        return _text(model, outputs), outputs

    def of_graph(self, path: Path, threads: int) -> dict[str, Any]:
        """Returns the difference of a graph from PyTorch on the same features, its text, and its cost."""
        outputs, seconds = run_graph(path, self.audio, threads)
        frames = self._frames(outputs)
        difference = (frames - self.reference[: len(frames)]).abs()
        text = _text(self.model, frames)
        p50, p99 = (float(np.percentile(seconds, q)) * 1000 for q in (50, 99))
        return {
            "megabytes": path.stat().st_size / 1e6,
            "max_difference": float(difference.max()),
            "changed_characters": self.changed(text),
            "p50_ms": p50,
            "p99_ms": p99,
            "text": text,
        }

    def _frames(self, outputs: Tensor) -> Tensor:
        """Converts outputs of the graph to inputs of decoding, without the warm-up."""
        warmup = self.graph.model.encoder.warmup
        if repeats := getattr(self.graph.output, "repeats", 0):
            outputs = outputs[::repeats]
            return torch.cat([outputs[:, -1:], outputs[:, :-1]], dim=-1)[warmup:]
        return outputs[warmup:, :-1]

    def changed(self, text: str) -> float:
        """Returns edits from the text of `transcribe --stream` to another one, as a share of its characters."""
        return edit_distance(self.text, text) / max(1, len(self.text))

    def features(self) -> dict[str, float]:
        """Returns the mean and the largest difference of features from those of training, in nats."""
        frontend = self.model.frontend
        delay = frontend.past - self._runtime.past
        own, _ = frontend(self.audio[None], torch.tensor([len(self.audio)]))
        shifted = torch.nn.functional.pad(self.audio, (delay, 0))
        received, _ = self._runtime(shifted[None], torch.tensor([len(shifted)]))
        difference = (received[..., : own.shape[-1]] - own).abs()
        return {
            "delay_ms": 1000 * delay / self.model.sample_rate,
            "mean_difference": float(difference.mean()),
            "max_difference": float(difference.max()),
        }

    @property
    def _runtime(self) -> LogMel:
        return RuntimeLogMel(self.model.frontend.kind).eval()


def _text(model: TextTask, outputs: Tensor) -> str:
    (tokens,), _ = model.decode(outputs[None], torch.tensor([len(outputs)]), model.start(1))
    return join(model.tokenizer, tokens).strip()


@dataclass(frozen=True)
class Timing:
    """Latency of a model in the runtime, in ms.

    Attributes:
        first_ms: audio that has arrived when the runtime emits the first frames.
        extra_ms: time that the runtime waits longer than `streamnest` for each chunk.
        latency_mean_ms: algorithmic latency, mean over samples.
        latency_worst_ms: the same, of the first sample of a chunk.
        tail_ms: silence to append to a recording, so that all of its frames are emitted.
        stamp_delay_ms: time by which time stamps are late.
    """

    first_ms: float
    extra_ms: float
    latency_mean_ms: float
    latency_worst_ms: float
    tail_ms: float
    stamp_delay_ms: float


def timing(model: EncoderTask, graph: SherpaStep) -> Timing:
    """Computes the latency of a model in the runtime."""
    runtime, per_ms = LogMel(kind="sherpa"), model.sample_rate / 1000
    # The runtime waits for one frame more than it takes.
    first = (graph.window + 1) * runtime.hop + runtime.overhang
    extra = (first - graph.first_samples) / per_ms
    warmup = model.encoder.warmup * graph.model.encoder.subsampling.factor
    tail = first + (warmup + graph.missing) * runtime.hop
    latency = model.latency
    return Timing(
        first / per_ms + warmup * runtime.hop_ms,
        extra,
        latency.latency_mean_ms + extra,
        latency.latency_worst_ms + extra,
        tail / per_ms,
        (model.encoder.warmup + model.encoder.target_shift) * model.encoder.frame_ms,
    )
