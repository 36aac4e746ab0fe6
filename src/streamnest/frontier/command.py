"""Command line of `streamnest frontier`."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from streamnest.console.entry_point import PREEMPTED, without_trace
from streamnest.console.terminal import terminal
from streamnest.errors import UserError
from streamnest.frontier import report
from streamnest.frontier.configs import with_configs
from streamnest.frontier.options import Options
from streamnest.frontier.plan import Stage, make_plan
from streamnest.frontier.processes import Launcher
from streamnest.frontier.progress import Watcher
from streamnest.frontier.records import Records
from streamnest.frontier.runner import Runner, interrupt_on_signals

# Presets of the frontier, from the smallest to the largest receptive field.
PRESETS = ("causal", "limited3200", "lookahead40", "lookahead80", "lookahead320", "dynamic", "bidirectional")
# Options for overrides, and the runs that they apply to.
_OVERRIDES = {
    "both": "every run",
    "pretrain": "pretraining",
    "finetune": "all fine-tuning",
    "pretrained": "fine-tuning from a pretrained encoder",
    "scratch": "fine-tuning from scratch",
}


@without_trace
def main(description: str, root: Path, argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status: 2 after a user error, 1 if a stage failed.

    Args:
        description: text of `--help`.
        root: folder that contains `configs`.
        argv: command-line arguments; None takes those of the process.
    """
    return _run(_parser(description).parse_args(argv), root, sys.argv[1:] if argv is None else argv)


def _run(args: argparse.Namespace, root: Path, argv: list[str]) -> int:
    records, console = Records(args.out), terminal(120, soft_wrap=True)
    if args.report:
        options, command = records.options()
        return _report(options, records, command, console)
    with console.status("reading configs"):
        options = with_configs(_options(args, root / "configs/encoder"), root / "configs")
    plan, launcher = make_plan(options), Launcher(records, args.threads, args.device)
    if args.dry_run:
        return _show(plan, launcher)
    command = shlex.join(["streamnest", "frontier", *argv])
    records.keep_options(options, command)
    interrupt_on_signals()
    watcher = Watcher(records, args.jobs, console)
    try:
        failed = Runner(launcher, watcher, args.jobs).run(plan)
    except KeyboardInterrupt:
        watcher.end()
        console.print("stopped; the same command continues")
        return PREEMPTED
    watcher.end()
    _report(options, records, command, console)
    return 1 if failed else 0


def _report(options: Options, records: Records, command: str, console: Console) -> int:
    results = report.gather(options, records, command)
    paths = report.write(results, records.out)
    partial = "" if results.done == results.planned else f"partial, {results.done} of {results.planned} evaluations: "
    console.print(partial + ", ".join(map(str, paths)))
    return 0


def _show(plan: list[Stage], launcher: Launcher) -> int:
    done = {stage.key for stage in plan if launcher.records.read(stage)}
    print(f"# {len(plan)} stages, {len(done)} of them done; each with STREAMNEST_LOGS={launcher.records.out}")
    for number, stage in enumerate(plan, 1):
        print(f"# [{number}/{len(plan)}] {stage.title}{': done' if stage.key in done else ''}\n{launcher.shell(stage)}")
    return 0


def _options(args: argparse.Namespace, encoders: Path) -> Options:
    """Makes the options of the command line; presets and contexts are looked up in the configs."""
    known = sorted(path.stem for path in encoders.glob("*.yaml") if not path.stem.startswith("base_"))
    presets = PRESETS if args.presets == ["all"] else tuple(args.presets)
    for preset in presets:
        if preset not in known:
            raise UserError(f"--presets {preset}: choose from {', '.join(known)}, or all for {' '.join(PRESETS)}")
    contexts = args.contexts or list(OmegaConf.load(encoders / "dynamic.yaml").contexts)
    given: dict[str, Any] = {f.name: getattr(args, f.name) for f in fields(Options) if f.name != "configs"}
    given |= {"presets": presets, "contexts": contexts if "dynamic" in presets else ()}
    given["variants"] = tuple(map(tuple, args.variants))
    given = {name: tuple(dict.fromkeys(value)) if isinstance(value, list) else value for name, value in given.items()}
    return Options(**given)


def _hours(text: str) -> float | None:
    return None if text == "all" else float(text)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    defaults = Options()
    add = parser.add_argument
    add("--out", type=Path, default=Path("logs/frontier"), help="output folder (default: logs/frontier)")
    add(
        "--presets",
        nargs="+",
        default=list(defaults.presets),
        metavar="PRESET",
        help=f"encoder presets (default: {' '.join(defaults.presets)}); all: {' '.join(PRESETS)}",
    )
    add(
        "--contexts",
        nargs="+",
        metavar="NAME",
        help="latency contexts to evaluate the dynamic checkpoint in (default: all of configs/encoder/dynamic.yaml)",
    )
    add("--seeds", nargs="+", type=int, default=[0], metavar="N", help="seeds to pool, each a whole frontier (0)")
    add("--pretrain_steps", type=int, default=defaults.pretrain_steps, metavar="N", help="pretraining updates (150)")
    add("--finetune_steps", type=int, default=defaults.finetune_steps, metavar="N", help="CTC updates (150)")
    add("--hours", nargs="+", type=_hours, default=[None], metavar="H", help="label budgets, such as 0.17 1 all (all)")
    overrides = "Hydra overrides of `streamnest train`; PRESET:key=value applies to one preset"
    for name, runs in _OVERRIDES.items():
        add(f"--{name}", nargs="+", default=[], metavar="OVERRIDE", help=f"overrides for {runs}")
    add(
        "--variant",
        nargs="+",
        action="append",
        default=[],
        dest="variants",
        metavar="NAME OVERRIDE",
        help="pretrain once more with these overrides and fine-tune in the same way; may be repeated",
    )
    parser.epilog = f"OVERRIDE: {overrides}."
    add("--eval_manifest", metavar="FILE", help="cuts to recognize (default: validation set of the fine-tuning)")
    add("--probes", action="store_true", help="probe the pretrained encoders layer by layer (`streamnest probe`)")
    add("--probe_manifest", metavar="FILE", help="utterances for --probes (default: built-in corpus)")
    add("--probe_phones", metavar="FILE", help="phone alignments for --probes (default: built-in corpus)")
    most = f"utterances with phones for --probes, and as many without ({defaults.probe_most})"
    add("--probe_most", type=int, default=defaults.probe_most, metavar="N", help=most)
    add("--jobs", type=int, default=1, metavar="N", help="stages that run at the same time (1)")
    add("--threads", type=int, metavar="N", help="threads of each stage (default: PyTorch's default)")
    add("--device", default="cpu", help="device of evaluations (cpu); training uses that of trainer=...")
    add("--dry_run", action="store_true", help="print the plan and its commands, run nothing")
    add("--report", action="store_true", help="only write tables and plots of the results in --out")
    return parser
