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
from streamnest.frontier.arguments import PRESETS, parser
from streamnest.frontier.configs import with_configs
from streamnest.frontier.options import FrontierOptions
from streamnest.frontier.plan import Stage, make_plan
from streamnest.frontier.processes import Launcher
from streamnest.frontier.progress import Watcher
from streamnest.frontier.records import Records
from streamnest.frontier.runner import Runner, interrupt_on_signals


@without_trace
def main(description: str, root: Path, argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status: 2 after a user error, 1 if a stage failed.

    Args:
        description: text of `--help`.
        root: folder that contains `configs`.
        argv: command-line arguments; None takes those of the process.
    """
    return _run(parser(description).parse(argv), root, sys.argv[1:] if argv is None else argv)


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


def _report(options: FrontierOptions, records: Records, command: str, console: Console) -> int:
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


def _options(args: argparse.Namespace, encoders: Path) -> FrontierOptions:
    """Makes the options of the command line; presets and contexts are looked up in the configs."""
    known = sorted(path.stem for path in encoders.glob("*.yaml") if not path.stem.startswith("base_"))
    presets = PRESETS if args.presets == ["all"] else tuple(args.presets)
    for preset in presets:
        if preset not in known:
            raise UserError(f"--presets {preset}: choose from {', '.join(known)}, or all for {' '.join(PRESETS)}")
    contexts = args.contexts or list(OmegaConf.load(encoders / "dynamic.yaml").contexts)
    given: dict[str, Any] = {f.name: getattr(args, f.name) for f in fields(FrontierOptions) if f.name != "configs"}
    given |= {"presets": presets, "contexts": contexts if "dynamic" in presets else ()}
    given["variants"] = tuple(map(tuple, args.variants))
    given = {name: tuple(dict.fromkeys(value)) if isinstance(value, list) else value for name, value in given.items()}
    return FrontierOptions(**given)
