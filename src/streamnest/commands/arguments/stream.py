"""Streams audio through a checkpoint and prints the compute time of a chunk: `streamnest stream MODEL AUDIO ...`.

MODEL is a checkpoint, or a graph from streamnest export (.onnx), which runs in onnxruntime; a CTC graph also prints
text. AUDIO is files or folders, or `-` for raw 16-bit little-endian mono PCM at 16 kHz on standard input, or `mic` for
the microphone (needs the package sounddevice).

--compare-modes compares the streamed frames with the offline forward, which encodes recordings over two minutes in
overlapping windows and then limits an unlimited left context as the stream does. --analyze scores the predicted codes
of masked frames, --realtime paces the input and measures the delay a listener would see. With an exported graph, the
first two need its checkpoint as --reference.

--adaptive 120ms chooses the context of each chunk of an encoder=dynamic checkpoint, within this average latency.
--compare-modes then compares with an offline forward with the same chunks.

Exit status 1: streamed and offline frames differ by more than the tolerance.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from streamnest.commands.arguments import add_adaptive, add_max_left_ms
from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import CHUNK_S, NOT_NEGATIVE, THREADS, output_file, output_folder


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest stream", __doc__, {"--pictures": "--plots"})
    made.add_argument("inputs", nargs="*", metavar="MODEL AUDIO", help="model, then files, folders, - or mic")
    made.add_argument("--model-path", dest="model", help=argparse.SUPPRESS)
    made.add_argument("--audio-path", dest="audio", nargs="+", help=argparse.SUPPRESS)
    made.add_argument("--context", metavar="NAME", help="latency context of an encoder=dynamic checkpoint")
    made.add_argument("--chunk-size", type=CHUNK_S, help="seconds of audio per step (default: the chunk of the model)")
    add_max_left_ms(made)
    add_adaptive(made)
    made.add_argument("--compare-modes", action="store_true", help="compare streamed frames with the offline forward")
    made.add_argument("--reference", metavar="CKPT", help="checkpoint that an exported graph was made from")
    made.add_argument(
        "--tolerance", type=NOT_NEGATIVE, help="largest difference allowed (default: 1e-5; exported: 1e-4)"
    )
    made.add_argument("--analyze", action="store_true", help="score the predicted codes of masked frames")
    made.add_argument("--realtime", action="store_true", help="pace the input as a microphone would")
    made.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    made.add_argument("--threads", type=THREADS, default=1, help="CPU threads")
    made.add_argument("--json", type=output_file, help="write all measurements to this file")
    made.add_argument(
        "--plots", type=output_folder, help="folder for the plots of --compare-modes, --analyze and --adaptive"
    )
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; `model` and `audio` may be given as positional arguments or as options."""
    made = parser()
    args = made.parse(argv)
    if args.model is None and args.inputs:
        args.model = args.inputs.pop(0)
    args.audio = [*(args.audio or []), *args.inputs]
    if not (args.model and args.audio):
        made.error("give a model and audio: streamnest stream MODEL FILE_OR_FOLDER ...")
    if args.adaptive and args.context:
        made.error("--adaptive chooses the context of each chunk: leave out --context")
    made.require(args, "adaptive_rule", "adaptive_contexts", needs="adaptive")
    made.require(args, "tolerance", needs="compare_modes")
    live = args.audio in (["-"], ["mic"])  # which has no plots at all
    if args.plots and not (live or args.compare_modes or args.analyze or args.adaptive):
        made.error("--plots has no effect without --compare-modes, --analyze or --adaptive: add one of them")
    return args
