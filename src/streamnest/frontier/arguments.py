"""Arguments of `streamnest frontier`, without the imports that its work needs."""

from __future__ import annotations

from pathlib import Path

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import output_folder
from streamnest.frontier.options import FrontierOptions

# Presets of the frontier, from the smallest to the largest receptive field.
PRESETS = ("causal", "limited3200", "lookahead40", "lookahead80", "lookahead320", "dynamic", "bidirectional")


def parser(description: str) -> ArgumentParser:
    """Returns the parser of the command."""
    made, defaults = ArgumentParser("streamnest frontier", description), FrontierOptions()
    add = made.add_argument
    add("--out", type=output_folder, default=Path("logs/frontier"), help="folder of all results")
    add("--presets", nargs="+", default=list(defaults.presets), metavar="NAME", help=f"or all: {' '.join(PRESETS)}")
    add("--contexts", nargs="+", metavar="NAME", help="contexts to evaluate the dynamic checkpoint in (default: all)")
    add("--seeds", nargs="+", type=int, default=[0], help="each seed runs a whole frontier; results are pooled")
    add(
        "--hours",
        nargs="+",
        type=_hours,
        default=[None],
        metavar="H",
        help="hours of labels: 0.17 1 all (default: all)",
    )
    add("--jobs", type=int, default=1, help="number of stages that run at once")
    add("--threads", type=int, help="CPU threads of each stage (default: chosen by torch)")
    add("--device", default="cpu", help="device of evaluations; training uses trainer=...")
    add("--dry-run", action="store_true", help="print the plan and its commands")
    add("--report", action="store_true", help="only write the table and plots of the results in --out")
    _add_training(made, defaults)
    _add_evaluation(made, defaults)
    return made


def _add_training(made: ArgumentParser, defaults: FrontierOptions) -> None:
    group = made.add_argument_group("training", "Overrides are those of training; PRESET:key=value is for one preset.")
    for name, what in (("pretrain", "pretraining"), ("finetune", "CTC training")):
        length, steps = group.add_mutually_exclusive_group(), getattr(defaults, f"{name}_steps")
        length.add_argument(f"--{name}-steps", type=int, default=steps, help=f"updates of {what} (default: {steps})")
        length.add_argument(f"--{name}-hours", type=float, metavar="H", help=f"hours of audio that {what} consumes")
    for name, runs in (
        ("both", "all runs"),
        ("pretrain", "pretraining"),
        ("finetune", "all CTC training"),
        ("pretrained", "CTC training of a pretrained encoder"),
        ("scratch", "CTC training from scratch"),
    ):
        group.add_argument(f"--{name}", nargs="+", default=[], metavar="OVERRIDE", help=f"overrides for {runs}")
    group.add_argument(
        "--variant",
        nargs="+",
        action="append",
        default=[],
        dest="variants",
        metavar="OVERRIDE",
        help="a name, then overrides: one more pretraining with them, with the same CTC training; repeatable",
    )


def _add_evaluation(made: ArgumentParser, defaults: FrontierOptions) -> None:
    group = made.add_argument_group("evaluation")
    group.add_argument("--eval-manifest", metavar="PATH", help="cuts to transcribe (default: validation set of CTC)")
    group.add_argument("--probes", action="store_true", help="probe each pretrained encoder (streamnest probe)")
    group.add_argument("--probe-manifest", metavar="PATH", help="utterances for --probes (default: built-in corpus)")
    group.add_argument("--probe-phones", metavar="PATH", help="phone labels for --probes")
    group.add_argument(
        "--probe-most", type=int, default=defaults.probe_most, help="utterances with phones, and as many without"
    )


def _hours(text: str) -> float | None:
    return None if text == "all" else float(text)
