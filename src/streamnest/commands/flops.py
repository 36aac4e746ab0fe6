"""Prints the training cost per second of audio, by model size and frame stride: `streamnest flops`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.markdown import Markdown

from streamnest.commands.arguments.flops import parse
from streamnest.config.compose import compose_config
from streamnest.console.entry_point import without_trace
from streamnest.encoder import EncoderConfig
from streamnest.flops import predicted_share, training_cost
from streamnest.locations import config_folder

HEADER = (
    "| size | stride | parameters | forward | backward | GFLOPs per audio s | audio h per GPU-hour | checkpoint |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def row(cfg: DictConfig, size: str, seconds: float, peak_tflops: float, mfu: float) -> str:
    """Returns one line of the table."""
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
    """Returns the Markdown table of sizes and strides."""
    lines, overrides = [HEADER], list(args.overrides)
    # Not every frame stride divides the look-ahead of the default preset.
    if not any(word.startswith(("encoder=", "experiment=")) for word in overrides):
        overrides.append("encoder=causal")
    for size in args.sizes:
        for factor in args.factors:
            words = [f"size={size}", f"encoder.subsampling_factor={factor}", *overrides]
            cfg = compose_config(words, config_folder(), "flops")
            lines.append(row(cfg, size, args.seconds, args.peak_tflops, args.mfu))
    note = f"Utterances of {args.seconds:g} s; {args.mfu:.0%} of {args.peak_tflops:g} TFLOP/s assumed, not measured."
    if "quantizer=teacher" in overrides:
        note += " The forward pass of the teacher, once for each utterance, is not included."
    return "\n".join([*lines, "", note])


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table, formatted on a terminal and as Markdown otherwise."""
    text = table(parse(argv))
    Console().print(Markdown(text)) if sys.stdout.isatty() else print(text)
    return 0
