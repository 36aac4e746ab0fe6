"""Prints the training cost of a run, or of each model size: `streamnest flops [OVERRIDE ...]`.

With experiment=NAME or trainer.max_steps=N among the overrides of training, the table is about that run: GFLOPs per
second of audio, FLOPs and audio of the whole run, GPU-hours at an assumed share of the peak performance. With --hours,
the size of the corpus, it also has the passes, the disk for shards, and the cost of a teacher's targets.

Without them, or with --sizes, it compares model sizes and frame strides per second of audio; without encoder=..., the
preset is causal.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import COUNT, POSITIVE, Number

# NVIDIA H100 SXM, dense bfloat16 products, from its data sheet.
PEAK_TFLOPS = 989.0
SIZES = ("small", "medium", "large", "xlarge")


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest flops", __doc__)
    made.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="Hydra overrides")
    made.add_argument("--sizes", nargs="+", metavar="SIZE", help=f"model sizes to compare: {' '.join(SIZES)}")
    made.add_argument("--factors", nargs="+", type=COUNT, default=[4, 8], help="subsampling factors")
    made.add_argument("--seconds", type=POSITIVE, default=16.0, help="length of an utterance")
    made.add_argument("--peak-tflops", type=POSITIVE, default=PEAK_TFLOPS, help="peak of one accelerator, dense")
    made.add_argument("--hours", type=POSITIVE, help="hours of the corpus of a run")
    made.add_argument(
        "--mfu",
        type=Number(float, 0, 1, above=True),
        default=0.35,
        help="assumed share of the peak (model FLOPs utilization)",
    )
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse(argv)
