"""Prints the training cost per second of audio, by model size and frame stride: `streamnest flops [OVERRIDE ...]`.

The table has GFLOPs of the forward and backward pass, hours of audio per GPU-hour at an assumed share of the peak
performance, and the size of a checkpoint. Overrides are those of training, such as experiment=nest_large; without
encoder=..., the preset is causal.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser

# NVIDIA H100 SXM, dense bfloat16 products, from its data sheet.
PEAK_TFLOPS = 989.0


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest flops", __doc__)
    made.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="Hydra overrides")
    made.add_argument(
        "--sizes", nargs="+", metavar="SIZE", default=["small", "medium", "large", "xlarge"], help="model sizes"
    )
    made.add_argument("--factors", nargs="+", type=int, default=[4, 8], help="subsampling factors")
    made.add_argument("--seconds", type=float, default=16.0, help="length of an utterance")
    made.add_argument("--peak-tflops", type=float, default=PEAK_TFLOPS, help="peak of one accelerator, dense")
    made.add_argument("--mfu", type=float, default=0.35, help="assumed share of the peak (model FLOPs utilization)")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse(argv)
