"""Export of the streaming step as an ONNX graph with metadata."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamnest import __version__
from streamnest.config.stored import task_name
from streamnest.encoder.state import OPEN_END, STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.files.atomic_write import json_values
from streamnest.streaming.exported_step import ExportedStep
from streamnest.streaming.graph_metadata import FORMAT
from streamnest.streaming.heads import ExportedHead
from streamnest.streaming.onnx_session import METADATA, require

OPSET = 18
# Loggers that warn of a missing torchvision, and of outputs that are constant.
_NOISY = ("torch.onnx._internal.exporter._registration", "onnx_ir.passes.common.initializer_deduplication")
# Dynamic dimensions of an input whose first one is the stream.
BATCH = {0: torch.export.Dim("batch")}
# A protobuf message is limited to 2 GiB; the weights of larger models are written to a separate file.
_ONE_FILE_BYTES = 1_900_000_000


def export_step(
    model: EncoderTask, path: str | Path, batch: int | None = 1, max_left_ms: float = STREAM_LEFT_MS
) -> dict[str, Any]:
    """Writes the streaming step of a model as ONNX.

    Args:
        model: model that can stream.
        path: file to write.
        batch: number of streams in a step; None makes it dynamic.
        max_left_ms: cap of an unlimited left context, see `FastConformer.init_state`.

    Returns:
        The metadata of the file, see `describe`.

    Raises:
        UserError: for models that cannot stream, and if the export packages are missing.
    """
    graph = ExportedStep(model, max_left_ms)
    metadata = describe(model, graph, batch)
    outputs = ["encoded", *(entry["output"] for entry in metadata["state"]), *_outputs(graph.head)]
    axes = None if batch else (BATCH, BATCH, tuple(BATCH for _ in graph.carried))
    names = (["audio", "end", *graph.carried], outputs)
    write_graph(graph, path, graph.inputs(batch or 2), names, {METADATA: json.dumps(metadata)}, axes)
    return metadata


def write_graph(
    graph: torch.nn.Module,
    path: str | Path,
    inputs: tuple[Tensor, ...],
    names: tuple[list[str], list[str]],
    metadata: dict[str, str],
    axes: Any = None,
) -> None:
    """Writes a module as ONNX.

    Args:
        graph: module to write.
        path: file to write.
        inputs: example of its inputs.
        names: names of its inputs and outputs.
        metadata: metadata of the file.
        axes: dynamic dimensions of the inputs, as for `torch.export`.

    Raises:
        UserError: if the export packages are missing.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            graph,
            inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=names[0],
            output_names=names[1],
            dynamic_shapes=axes,
            verbose=False,
        )
    _remove_traces(program.model)
    program.model.metadata_props.update(metadata)
    weights = sum(4 * parameter.numel() for parameter in graph.parameters())
    program.save(str(path), external_data=weights > _ONE_FILE_BYTES)


def _remove_traces(model: Any) -> None:
    """Removes the stack traces that the exporter stores for each node: they contain local paths."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None


def _outputs(head: ExportedHead | None) -> list[str]:
    return [head.output] if head else []


def describe(model: EncoderTask, graph: ExportedStep, batch: int | None) -> dict[str, Any]:
    """Returns the metadata that a program needs to run the graph; docs/EXPORT.md explains each entry."""
    encoder, frontend, config = model.encoder, model.frontend, model.config
    attention_past = graph.initial["layers_0_attention_past"]
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
        "left_frames": attention_past.shape[1],
        "left_unlimited": encoder.context.left is None,
        "state": [_describe_tensor(name, graph.initial[name], batch) for name in graph.carried],
        "latency": json_values(asdict(model.latency)),
        "config": {group: config.get(group) for group in ("frontend", "encoder")},
    }


def _describe_tensor(name: str, initial: Tensor, batch: int | None) -> dict[str, Any]:
    """Describes a tensor of the state; its initial value is one number if all elements are equal."""
    uniform = bool((initial == initial.flatten()[0]).all()) if initial.numel() else True
    value = (initial.flatten()[0].item() if initial.numel() else 0) if uniform else initial[0].tolist()
    dtype = str(initial.dtype).removeprefix("torch.")
    shape = [batch, *initial.shape[1:]]
    return {"name": name, "output": f"next_{name}", "shape": shape, "dtype": dtype, "initial": value}
