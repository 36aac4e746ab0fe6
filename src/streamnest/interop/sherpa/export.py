"""Writes a recognizer as files that sherpa-onnx loads."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from streamnest import __version__
from streamnest.downstream.asr.ctc import CTCRecognizer
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.rnnt import RNNTRecognizer
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.interop.sherpa.outputs import CTCOutput
from streamnest.interop.sherpa.step import SherpaStep
from streamnest.interop.sherpa.tokens import write_tokens
from streamnest.interop.sherpa.transducer import DecoderGraph, FrameOutput, JoinerGraph
from streamnest.streaming.export import BATCH, write_graph
from streamnest.streaming.quantization import quantize_step

_INPUTS = ["audio_signal", "length", "attention", "rest", "steps"]
_OUTPUTS = ["outputs", "output_length", "next_attention", "next_rest", "next_steps"]
# What the runtime computes for NeMo models.
_FRONTEND = {"sample_rate": 16000, "num_mels": 80, "hop": 160, "n_fft": 512, "preemphasis": 0.97}
_WINDOW = 400


@dataclass(frozen=True)
class Exported:
    """Result of `export_sherpa`.

    Attributes:
        graph: the step.
        steps: its file in float32 and in int8.
        others: other graphs.
    """

    graph: SherpaStep
    steps: list[Path]
    others: list[Path]


def export_sherpa(model: TextTask, folder: Path, max_left_ms: float = STREAM_LEFT_MS) -> Exported:
    """Writes a recognizer for sherpa-onnx 2.0.1 or later.

    Args:
        model: model of task=ctc or task=rnnt that can stream.
        folder: folder to write to; it is created.
        max_left_ms: cap of an unlimited left context, see `FastConformer.init_state`.

    Raises:
        UserError: for models that cannot stream, and front ends that the runtime does not have.
    """
    check_frontend(model.frontend)
    if isinstance(model, CTCRecognizer):
        return _export_ctc(model, folder, max_left_ms)
    if isinstance(model, RNNTRecognizer):
        return _export_rnnt(model, folder, max_left_ms)
    raise UserError("sherpa-onnx has no interface for this task: export a checkpoint of task=ctc or task=rnnt")


def check_frontend(frontend: LogMel) -> None:
    """Refuses a front end that the runtime does not have.

    Raises:
        UserError: naming the values.
    """
    values = {**{name: getattr(frontend, name) for name in _FRONTEND}, "window": len(frontend.window)}
    wanted = {**_FRONTEND, "window": _WINDOW}
    if odd := [f"{name}={values[name]} instead of {wanted[name]}" for name in wanted if values[name] != wanted[name]]:
        raise UserError(
            f"sherpa-onnx computes other features than this model needs: {', '.join(odd)} (window and hop in samples)"
        )


def _export_ctc(model: CTCRecognizer, folder: Path, max_left_ms: float) -> Exported:
    head = copy.deepcopy(model.head).float().cpu()
    graph = SherpaStep(model, CTCOutput(head, model.encoder.subsampling.factor), max_left_ms)
    folder.mkdir(parents=True, exist_ok=True)
    write_tokens(model.tokenizer, folder / "tokens.txt")
    path = folder / "model.onnx"
    write_step(graph, path, {"vocab_size": model.tokenizer.size - 1})
    return Exported(graph, [path, _quantized(path)], [])


def _export_rnnt(model: RNNTRecognizer, folder: Path, max_left_ms: float) -> Exported:
    head = copy.deepcopy(model.head).float().cpu().eval()
    graph, decoder, joiner = SherpaStep(model, FrameOutput(head), max_left_ms), DecoderGraph(head), JoinerGraph(head)
    folder.mkdir(parents=True, exist_ok=True)
    write_tokens(model.tokenizer, folder / "tokens.txt")
    paths = [folder / f"{name}.onnx" for name in ("encoder", "decoder", "joiner")]
    sizes: dict[str, int | str] = {"pred_rnn_layers": decoder.state[0], "pred_hidden": decoder.state[2]}
    write_step(graph, paths[0], {"vocab_size": model.tokenizer.size - 1, "normalize_type": "NA", **sizes})
    version = {"streamnest_version": __version__}
    names = (["targets", "target_length", "first", "second"], ["outputs", "length", "next_first", "next_second"])
    write_graph(decoder, paths[1], decoder.inputs(), names, version)
    write_graph(joiner, paths[2], joiner.inputs(), (["frame", "predicted"], ["scores"]), version)
    return Exported(graph, [paths[0], _quantized(paths[0])], paths[1:])


def write_step(graph: SherpaStep, path: Path, entries: dict[str, int | str]) -> None:
    """Writes the graph of a step with the metadata that the runtime requires, and `entries`."""
    repeats = getattr(graph.output, "repeats", 1)
    metadata = {
        "streamnest_version": __version__,
        "window_size": graph.window,
        "chunk_shift": graph.window,
        "subsampling_factor": graph.model.encoder.subsampling.factor // repeats,
        **{f"cache_last_channel_dim{n}": size for n, size in enumerate((1, 1, graph.sizes[0]), 1)},
        **{f"cache_last_time_dim{n}": size for n, size in enumerate((1, 1, graph.sizes[1]), 1)},
        **entries,
    }
    texts = {name: str(value) for name, value in metadata.items()}
    write_graph(graph, path, graph.inputs(2), (_INPUTS, _OUTPUTS), texts, (BATCH,) * len(_INPUTS))


def _quantized(path: Path) -> Path:
    target = path.with_suffix(".int8.onnx")
    quantize_step(path, target)
    return target
