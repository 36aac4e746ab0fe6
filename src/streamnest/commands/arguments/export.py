"""Exports the streaming step of a checkpoint as ONNX: `streamnest export CKPT OUT`.

The graph maps audio and explicit state to encoder frames and the next state; its metadata holds everything a program
needs to run it (docs/EXPORT.md). The exported graph is run with onnxruntime over a whole utterance and compared with
PyTorch. --int8 also writes a quantized graph, OUT.int8.onnx, and reports its error.

--format sherpa writes a folder for the runtime sherpa-onnx instead: a recognizer of task=ctc as model.onnx, or of
task=rnnt as encoder.onnx, decoder.onnx and joiner.onnx, an int8 graph beside it, and tokens.txt (docs/SHERPA.md).

Exit status 1: the graph and PyTorch differ by more than the tolerance; 2: the model cannot be exported.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import NOT_NEGATIVE, THREADS, Number, output_file, output_path
from streamnest.locations import sample_corpus

SPEECH = sample_corpus() / "speech/asterisk_en-demo-moreinfo.ogg"


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest export", __doc__)
    made.add_argument("checkpoint", metavar="CKPT", help="checkpoint of any task")
    made.add_argument("output", type=output_path, metavar="OUT", help="file to write, OUT.onnx, or folder")
    made.add_argument(
        "--format", choices=("onnx", "sherpa"), default="onnx", help="file for any runtime, or sherpa-onnx"
    )
    made.add_argument("--context", metavar="NAME", help="latency context of an encoder=dynamic checkpoint")
    made.add_argument(
        "--int8", action="store_true", help="also write OUT.int8.onnx with quantized weights; sherpa: always"
    )
    size = made.add_mutually_exclusive_group()
    size.add_argument("--batch", type=Number(int, 1, 4096), default=1, help="streams per step")
    size.add_argument("--dynamic-batch", action="store_true", help="any number of streams per step")
    made.add_argument(
        "--max-left-ms",
        type=float,
        default=20_000.0,
        help="cap of an unlimited left context; a smaller one gives a smaller state and a faster step",
    )
    made.add_argument("--audio-path", type=Path, default=SPEECH, help="utterance to compare on (default: built-in)")
    made.add_argument("--tolerance", type=NOT_NEGATIVE, default=1e-4, help="largest difference allowed, in float32")
    made.add_argument("--threads", type=THREADS, default=1, help="CPU threads of PyTorch and onnxruntime")
    made.add_argument("--json", type=output_file, help="write all measurements to this file")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse(argv)
