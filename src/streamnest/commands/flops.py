"""Prints what training costs per second of audio, by size and stride: `streamnest flops [overrides]`.

GFLOPs of the forward and backward pass, what a GPU would then hear if it reached a share of its peak, and how large
checkpoints are. Overrides are those of train.py; --seconds, --peak_tflops and --mfu set the assumptions.
"""

from __future__ import annotations

import argparse
import sys

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.markdown import Markdown

from streamnest.config.compose import compose_config
from streamnest.console.entry_point import without_trace
from streamnest.encoder import EncoderConfig
from streamnest.flops import predicted_share, training_cost
from streamnest.locations import config_folder

# NVIDIA H100 SXM, dense bfloat16 products, of its data sheet.
PEAK_TFLOPS = 989.0
HEADER = (
    "| size | stride | parameters | forward | backward | GFLOPs an audio second | audio h per GPU-hour | checkpoint |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def row(cfg: DictConfig, size: str, seconds: float, peak_tflops: float, mfu: float) -> str:
    """One line of the table."""
    settings = EncoderConfig(**{key: value for key, value in cfg.encoder.items() if key != "_target_"})
    masking, objective = instantiate(cfg.masking), instantiate(cfg.objective)
    masked = predicted_share(masking, objective, settings.subsampling_factor, seconds)
    cost = training_cost(settings, cfg.quantizer.num_classes, cfg.quantizer.num_codebooks, seconds, masked)
    cells = (
        f"`{size}`",
        f"{settings.hop_ms * settings.subsampling_factor:.0f} ms",
        f"{cost.parameters / 1e6:.1f}M",
        *(f"{value / 1e9:.3g}" for value in (cost.forward, cost.backward, cost.total)),
        f"{peak_tflops * 1e12 * mfu / cost.total:,.0f}",
        # Weights and the two moments of AdamW, four bytes each.
        f"{12 * cost.parameters / 1e9:.2f} GB",
    )
    return f"| {' | '.join(cells)} |"


def table(args: argparse.Namespace) -> str:
    """The Markdown table of sizes and strides."""
    lines = [HEADER]
    for size in args.sizes:
        for factor in args.factors:
            words = [f"size={size}", f"encoder.subsampling_factor={factor}", *args.overrides]
            cfg = compose_config(words, config_folder(), "flops")
            lines.append(row(cfg, size, args.seconds, args.peak_tflops, args.mfu))
    note = f"Utterances of {args.seconds:g} s; {args.mfu:.0%} of {args.peak_tflops:g} TFLOP/s assumed, not measured."
    return "\n".join([*lines, "", note])


@without_trace
def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="as for train.py, such as experiment=nest_large")
    parser.add_argument("--sizes", nargs="+", default=["small", "medium", "large", "xlarge"])
    parser.add_argument("--factors", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--seconds", type=float, default=16.0, help="length of an utterance")
    parser.add_argument("--peak_tflops", type=float, default=PEAK_TFLOPS, help="of one accelerator, without sparsity")
    parser.add_argument("--mfu", type=float, default=0.35, help="share of the peak that is assumed to be reached")
    text = table(parser.parse_intermixed_args())
    Console().print(Markdown(text)) if sys.stdout.isatty() else print(text)
    return 0
