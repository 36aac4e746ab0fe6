"""Dynamic int8 quantization of exported graphs: weights take a quarter of the space."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from streamnest.streaming.onnx_session import METADATA, require

# Products with fewer rows of weights are not faster in int8, such as the first layer of the subsampling.
_SMALLEST = 32


def quantize_step(source: str | Path, target: str | Path) -> int:
    """Writes an exported graph with the weights of its matrix products in int8; convolutions are not quantized.

    The front end stays in floating point, since the logarithm would amplify small errors of quiet bands. Weights are
    unsigned and quantized per output channel: signed ones overflow 16 bits on processors without VNNI instructions.

    Args:
        source: file from `export_step`.
        target: file to write.

    Returns:
        The number of quantized matrix products.
    """
    onnx, quantization = require("onnx"), require("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"
        _fold(source, folded)
        nodes = _products(onnx.load(folded).graph)
        logging.disable(logging.WARNING)  # warns that the graph should be preprocessed, which `_fold` has done
        try:
            quantization.quantize_dynamic(
                folded, target, per_channel=True, weight_type=quantization.QuantType.QUInt8, nodes_to_quantize=nodes
            )
        finally:
            logging.disable(logging.NOTSET)
    stored = {entry.key: entry.value for entry in onnx.load(source, load_external_data=False).metadata_props}
    if METADATA in stored:
        stored[METADATA] = json.dumps(json.loads(stored[METADATA]) | {"quantization": "int8 dynamic"})
    written = onnx.load(target)
    onnx.helper.set_model_props(written, stored)
    onnx.save(written, target)
    return len(nodes)


def _fold(source: str | Path, target: Path) -> None:
    """Writes the graph with constant subexpressions evaluated, such as the projected positions."""
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    runtime.InferenceSession(
        str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
    )


def _products(graph: Any) -> list[str]:
    """Lists the products with a weight matrix, after the logarithm of the front end if it is part of the graph."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    start = next((index for index, node in enumerate(graph.node) if node.op_type == "Log"), 0)
    return [
        node.name
        for node in list(graph.node)[start:]
        if node.op_type in ("MatMul", "Gemm")
        and node.input[1] in weights
        and weights[node.input[1]].dims[0] >= _SMALLEST
    ]
