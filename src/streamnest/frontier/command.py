"""The command line of `streamnest frontier`."""

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
from streamnest.frontier.processes import Machine
from streamnest.frontier.progress import Watcher
from streamnest.frontier.records import Records
from streamnest.frontier.runner import Runner, interrupt_on_signals

# Presets of the frontier, from the least to the most that is heard.
PRESETS = ("causal", "limited3200", "lookahead40", "lookahead80", "lookahead320", "dynamic", "bidirectional")


@without_trace
def main(description: str, root: Path, argv: list[str] | None = None) -> int:
    """Runs the command; a user's mistake is a message and status 2, a failed stage status 1.

    Args:
        description: of `--help`.
        root: of the repository.
        argv: words of the command line; None are those of the process.
    """
    return _run(_parser(description).parse_args(argv), root, sys.argv[1:] if argv is None else argv)


def _run(args: argparse.Namespace, root: Path, argv: list[str]) -> int:
    records, console = Records(args.out), terminal(120, soft_wrap=True)
    if args.report:
        options, command = records.options()
        return _report(options, records, command, console)
    with console.status("reading configs"):
        options = with_configs(_options(args, root / "configs/encoder"), root / "configs")
    plan, machine = make_plan(options), Machine(root, records, args.threads, args.device)
    if args.dry_run:
        return _show(plan, machine)
    command = shlex.join(["python", "streamnest frontier", *argv])
    records.keep_options(options, command)
    interrupt_on_signals()
    watcher = Watcher(records, args.jobs, console)
    try:
        failed = Runner(machine, watcher, args.jobs).run(plan)
    except KeyboardInterrupt:
        watcher.end()
        console.print("stopped; the same command continues")
        return PREEMPTED
    watcher.end()
    _report(options, records, command, console)
    return 1 if failed else 0


def _report(options: Options, records: Records, command: str, console: Console) -> int:
    found = report.gather(options, records, command)
    paths = report.write(found, records.out)
    partial = "" if found.done == found.planned else f"partial, {found.done} of {found.planned} evaluations: "
    console.print(partial + ", ".join(map(str, paths)))
    return 0


def _show(plan: list[Stage], machine: Machine) -> int:
    done = {stage.key for stage in plan if machine.records.read(stage)}
    print(f"# {len(plan)} stages, {len(done)} of them done; each with STREAMNEST_LOGS={machine.records.out}")
    for number, stage in enumerate(plan, 1):
        print(f"# [{number}/{len(plan)}] {stage.title}{': done' if stage.key in done else ''}\n{machine.typed(stage)}")
    return 0


def _options(args: argparse.Namespace, encoders: Path) -> Options:
    """Those of the command line; presets and contexts are looked up in the configs."""
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


def _hours(word: str) -> float | None:
    return None if word == "all" else float(word)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    defaults = Options()
    add = parser.add_argument
    add("--out", type=Path, default=Path("logs/frontier"), help="folder of everything (logs/frontier)")
    add("--presets", nargs="+", default=list(defaults.presets), help=f"of the encoder, or all: {' '.join(PRESETS)}")
    add(
        "--contexts",
        nargs="+",
        help="in which the dynamic checkpoint is evaluated; all of configs/encoder/dynamic.yaml",
    )
    add("--seeds", nargs="+", type=int, default=[0], help="each is a whole frontier; results are pooled")
    add("--pretrain_steps", type=int, default=defaults.pretrain_steps, help="updates of pretraining")
    add("--finetune_steps", type=int, default=defaults.finetune_steps, help="updates of CTC")
    add("--hours", nargs="+", type=_hours, default=[None], metavar="H", help="label budgets: 0.17 1 all")
    words = "overrides of train.py; PRESET:key=value for one preset"
    add("--both", nargs="+", default=[], metavar="WORD", help=f"of every run: {words}")
    add("--pretrain", nargs="+", default=[], metavar="WORD", help="of pretraining")
    add("--finetune", nargs="+", default=[], metavar="WORD", help="of every fine-tune")
    add("--pretrained", nargs="+", default=[], metavar="WORD", help="of fine-tunes of a pretrained encoder")
    add("--scratch", nargs="+", default=[], metavar="WORD", help="of fine-tunes from scratch")
    add(
        "--variant",
        nargs="+",
        action="append",
        default=[],
        dest="variants",
        metavar="WORD",
        help="a name, then overrides: pretrains once more with them, and trains recognition on that alike; repeatable",
    )
    add("--eval_manifest", help="cuts to recognise; the validation set of the fine-tune otherwise")
    add("--probes", action="store_true", help="probe pretrained encoders, see streamnest probe")
    add("--probe_manifest", help="for it; the built-in corpus otherwise")
    add("--probe_phones", help="for it")
    add("--probe_most", type=int, default=defaults.probe_most, help="utterances with phones, and as many without")
    add("--jobs", type=int, default=1, help="stages at a time")
    add("--threads", type=int, help="of each stage; torch's default otherwise")
    add("--device", default="cpu", help="of evaluations; that of training is trainer=...")
    add("--dry_run", action="store_true", help="print the plan and its commands")
    add("--report", action="store_true", help="only write table and pictures of what --out holds so far")
    return parser
