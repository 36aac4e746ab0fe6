"""Finds who speaks when with a checkpoint of task=diarization: `streamnest diarize MODEL AUDIO ...`.

Prints the speaker turns of each file as a live stream would emit them: start and end in seconds, and a speaker number
that is local to the file. A graph from streamnest export (.onnx) runs in onnxruntime. With --reference, an RTTM file or
a folder of files named like the audio, the diarization error rate is printed as well.

Audio that cannot be read is skipped: exit status 1 if some was, 2 if all was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import CHUNK_S, NOT_NEGATIVE, THREADS, THRESHOLD, output_file, output_plot


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest diarize", __doc__, {"--picture": "--plot"})
    made.add_argument("checkpoint", metavar="MODEL", help="checkpoint of task=diarization, or exported graph")
    made.add_argument("audio", nargs="+", metavar="AUDIO", help="files or folders")
    made.add_argument("--rttm", type=output_file, help="write the turns of all files to this file")
    made.add_argument("--plot", type=output_plot, help="plot activity over time (.png or .svg), one plot per file")
    made.add_argument("--chunk-size", type=CHUNK_S, default=0.16, help="seconds per piece of the stream")
    made.add_argument("--context", metavar="NAME", help="latency context of an encoder=dynamic checkpoint")
    made.add_argument(
        "--threshold",
        type=THRESHOLD,
        help="smallest probability of activity that counts as speech (default: the task's)",
    )
    made.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    made.add_argument("--threads", type=THREADS, default=1, help="CPU threads")
    scoring = made.add_argument_group("scoring")
    scoring.add_argument("--reference", type=Path, help="RTTM file, or folder of RTTM files")
    scoring.add_argument("--collar", type=NOT_NEGATIVE, help="unscored seconds around a boundary (default: the task's)")
    scoring.add_argument("--skip-overlap", action="store_true", help="do not score overlapping speech")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line, and refuses options of scoring without a reference."""
    made = parser()
    args = made.parse(argv)
    made.require(args, "collar", "skip_overlap", needs="reference")
    return args
