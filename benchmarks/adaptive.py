"""Measures error rate against average latency with adaptive look-ahead: `python benchmarks/adaptive.py CKPT ...`.

A recognizer of encoder=dynamic streams each utterance with each rule and budget, and runs offline in each fixed
context. The table has the average latency that a rule reached, its error rate with a bootstrap interval over
utterances, and the change relative to random choices with the same budget; `--json` and `--plot` write the points. A
rule is useful if it has fewer errors than random choices and than fixed contexts at the same average latency.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import COUNT, POSITIVE, THREADS, output_file, output_plot


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/adaptive.py", __doc__)
    parser.add_argument("checkpoint", metavar="CKPT", help="recognizer (task=ctc) of encoder=dynamic")
    parser.add_argument("--manifest", metavar="PATH", required=True, help="Lhotse cuts with texts")
    parser.add_argument("--languages", nargs="+", metavar="LANGUAGE", help="only cuts of these languages")
    parser.add_argument("--max-duration", type=POSITIVE, default=16.0, help="skip longer cuts (seconds)")
    parser.add_argument(
        "--max-minutes", type=POSITIVE, help="minutes of audio, spread over the manifest (default: all)"
    )
    parser.add_argument("--join", type=POSITIVE, metavar="SECONDS", help="join utterances to streams up to this length")
    parser.add_argument("--budgets", type=POSITIVE, nargs="+", default=[60, 120, 200], help="average latencies (ms)")
    parser.add_argument(
        "--rules", nargs="+", default=["entropy", "preview", "energy"], help="rules beside random, the control"
    )
    parser.add_argument("--contexts", nargs="+", metavar="NAME", help="contexts to choose from (default: all limited)")
    parser.add_argument("--seeds", type=COUNT, default=2, help="number of runs of the random rule")
    parser.add_argument("--batch", type=COUNT, default=32, help="streams that run together")
    parser.add_argument("--threads", type=THREADS, default=1, help="CPU threads")
    parser.add_argument("--json", type=output_file, help="write all points to this file")
    parser.add_argument("--plot", type=output_plot, help="plot error rate against average latency")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import sys
from dataclasses import asdict, dataclass, replace
from itertools import product

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table
from torch import Tensor

from streamnest.checkpoint.loading import load_model
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import printable, terminal
from streamnest.data.audio import BadAudioError, load_mono
from streamnest.data.labels import label_of, suitable
from streamnest.data.manifest import load_cuts
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.vocabulary import join, normalize_text
from streamnest.downstream.metrics.error_rates import RecognizedUtterance, errors
from streamnest.errors import UserError
from streamnest.files.atomic_write import write_json
from streamnest.frontier.intervals import Bootstrap, Estimate
from streamnest.plotting import OKABE_ITO, heading, plain_axes, save
from streamnest.streaming.adaptive import AdaptiveSession, AdaptiveSettings
from streamnest.streaming.adaptive.contexts import adaptive_contexts
from streamnest.streaming.adaptive.history import mean_latency

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Utterance:
    """Audio `(N,)` and its reference."""

    id: str
    audio: Tensor
    reference: str


@dataclass(frozen=True)
class Point:
    """Error rate of a rule with a budget, or of a fixed context.

    Attributes:
        rule: name of the rule, or `fixed`.
        budget_ms: budget; for a fixed context its latency.
        mean_ms: average latency over all frames.
        cer: character error rate with its interval.
        change: relative change of the error rate against random choices with the same budget; None without them.
        share: share of the frames of each context.
    """

    rule: str
    budget_ms: float
    mean_ms: float
    cer: Estimate
    change: Estimate | None
    share: dict[str, float]


def load_utterances(args: argparse.Namespace, rate: int) -> list[Utterance]:
    """Loads the utterances with a text, from the shortest to the longest.

    Raises:
        UserError: if there are none.
    """
    cuts, report = load_cuts(args.manifest, max_duration=args.max_duration, on_long="skip")
    chosen = list(suitable(cuts, args.languages, True, report.counts))
    if args.max_minutes:
        total = sum(cut.duration for cut in chosen) / 60
        chosen = chosen[:: max(1, round(total / args.max_minutes))]
    found = []
    for cut in chosen:
        try:
            audio = torch.from_numpy(load_mono(cut))
        except BadAudioError as error:
            print(f"skipped: {printable(cut.id)}: {printable(error)}", file=sys.stderr)
            continue
        found.append(Utterance(cut.id, audio, normalize_text(label_of(cut).text or "")))
    if not found:
        languages = " or ".join(args.languages or ["any language"])
        raise UserError(f"--manifest {args.manifest} has no usable utterance with text in {languages}")
    minutes = sum(len(u.audio) for u in found) / rate / 60
    print(f"{len(found)} utterances, {minutes:.1f} min", file=sys.stderr)
    if args.join:
        found = joined(found, round(args.join * rate))
        print(f"{len(found)} streams", file=sys.stderr)
    return sorted(found, key=lambda u: len(u.audio))


def joined(utterances: Sequence[Utterance], most: int) -> list[Utterance]:
    """Joins consecutive utterances to streams of at most `most` samples; longer utterances stay alone."""
    groups = list[list[Utterance]]()
    for utterance in utterances:
        if groups and sum(len(u.audio) for u in groups[-1]) + len(utterance.audio) <= most:
            groups[-1].append(utterance)
        else:
            groups.append([utterance])
    return [
        Utterance(group[0].id, torch.cat([u.audio for u in group]), " ".join(u.reference for u in group))
        for group in groups
    ]


@torch.no_grad()
def text_of(model: TextTask, frames: Tensor) -> str:
    """Returns the text of encoder frames `(T, d)` by greedy decoding."""
    (tokens,), _ = model.decode(model.outputs(frames[None]), torch.tensor([len(frames)]), model.start(1))
    return join(model.tokenizer, tokens)


def character_errors(utterances: Sequence[Utterance], texts: Sequence[str]) -> Counts:
    """Returns errors and characters of each utterance, `(N, 2)`."""
    pairs = zip(utterances, texts, strict=True)
    return errors([RecognizedUtterance(u.id, u.reference, text) for u, text in pairs], "cer")


@torch.no_grad()
def fixed(model: TextTask, utterances: Sequence[Utterance], name: str, batch: int) -> Counts:
    """Recognizes all utterances in one context."""
    model.encoder.use_context(name)
    texts = list[str]()
    for start in range(0, len(utterances), batch):
        audio = [u.audio for u in utterances[start : start + batch]]
        padded = torch.nn.utils.rnn.pad_sequence(audio, batch_first=True)
        texts += model.recognize(padded, torch.tensor([len(x) for x in audio]))
    model.encoder.use_context(None)
    return character_errors(utterances, texts)


def adaptive(
    model: TextTask, utterances: Sequence[Utterance], settings: AdaptiveSettings, batch: int
) -> tuple[Counts, dict[str, int]]:
    """Streams all utterances; returns errors and characters of each `(N, 2)`, and the frames of each context."""
    texts, frames = list[str](), dict[str, int]()
    starts = range(0, len(utterances), batch)
    name = f"{settings.rule}, {settings.budget_ms:g} ms"
    for start in track(starts, name, console=terminal(stderr=True), disable=not sys.stderr.isatty()):
        group = utterances[start : start + batch]
        # The whole past of the longest stream, which is all that any of them sees.
        left_ms = 1000 * len(group[-1].audio) / model.sample_rate + 1100
        session = AdaptiveSession(model, replace(settings, seed=settings.seed + start), left_ms)
        numbers = [session.open() for _ in group]
        first = session.push({n: u.audio for n, u in zip(numbers, group, strict=True)})
        last = session.flush(numbers)
        texts += [text_of(model, torch.cat([first[n], last[n]])) for n in numbers]
        for history in session.flushed.values():
            for context, count in history.frames.items():
                frames[context] = frames.get(context, 0) + count
    return character_errors(utterances, texts), frames


def check_settings(model: TextTask, args: argparse.Namespace) -> None:
    """Refuses budgets, rules and contexts that do not suit the model, before anything is measured."""
    for budget, rule in product(args.budgets, args.rules):
        AdaptiveSession(model, AdaptiveSettings(budget, rule, tuple(args.contexts or ()) or None))


def measure(model: TextTask, utterances: Sequence[Utterance], args: argparse.Namespace) -> list[Point]:
    """Measures all fixed contexts, rules and budgets."""
    contexts = adaptive_contexts(model)
    latency = {context.name: context.mean_ms for context in contexts}
    # With one run, the interval varies utterances only.
    bootstrap = Bootstrap(1, len(utterances))
    points = list[Point]()
    for context in contexts:
        counts = fixed(model, utterances, context.name, args.batch)[None]
        points.append(
            Point("fixed", context.mean_ms, context.mean_ms, bootstrap.rate(counts), None, {context.name: 1.0})
        )
        report(points[-1])
    names = tuple(args.contexts) if args.contexts else None
    for budget in args.budgets:
        control: Counts | None = None
        for rule in ("random", *args.rules):
            runs = [
                adaptive(model, utterances, AdaptiveSettings(budget, rule, names, 10_000 * seed), args.batch)
                for seed in range(args.seeds if rule == "random" else 1)
            ]
            # Runs of the control are pooled: errors and characters of an utterance are added.
            counts = np.sum([one for one, _ in runs], axis=0)[None]
            frames = {name: sum(part[name] for _, part in runs) for name in runs[0][1]}
            change = None if control is None else bootstrap.change(counts, control)
            control = counts if control is None else control
            total = sum(frames.values())
            share = {name: count / total for name, count in frames.items()}
            mean_ms = mean_latency(latency, frames)
            points.append(Point(rule, budget, mean_ms, bootstrap.rate(counts), change, share))
            report(points[-1])
    return points


def report(point: Point) -> None:
    """Prints a point as soon as it is measured."""
    name = next(iter(point.share)) if point.rule == "fixed" else f"{point.rule} {point.budget_ms:g} ms"
    print(f"{name}: {point.mean_ms:.1f} ms, CER {point.cer.value:.2%}", file=sys.stderr, flush=True)


def table(points: Sequence[Point]) -> Table:
    """Returns the table of all points."""
    made = Table(title="Character error rate against average latency", title_justify="left")
    for name in (
        "rule",
        "budget\nms",
        "average\nms",
        "CER (95% interval)",
        "change against\nrandom",
        "share of frames",
    ):
        made.add_column(name, overflow="fold")
    for p in points:
        change = f"{p.change.value:+.1%} ({p.change.low:+.1%} to {p.change.high:+.1%})" if p.change else ""
        share = ", ".join(f"{name} {part:.0%}" for name, part in p.share.items())
        rate = f"{p.cer.value:.2%} ({p.cer.low:.2%} to {p.cer.high:.2%})"
        made.add_row(p.rule, f"{p.budget_ms:g}", f"{p.mean_ms:.1f}", rate, change, share)
    return made


def plot(points: Sequence[Point]) -> Figure:
    """Plots error rate against average latency, one line per rule."""
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    heading(figure, "Character error rate against average latency")
    plain_axes(axes)
    for rule, color in zip(dict.fromkeys(p.rule for p in points), OKABE_ITO, strict=False):
        own = [p for p in points if p.rule == rule]
        style, label = ("s--", "fixed contexts") if rule == "fixed" else ("o-", rule)
        axes.plot([p.mean_ms for p in own], [100 * p.cer.value for p in own], style, color=color, lw=1.4, label=label)
    axes.set_xscale("log")
    ticks = (20, 50, 100, 200, 500)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("average algorithmic latency (ms)")
    axes.set_ylabel("character error rate (%)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, frameon=False)
    return figure


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the measurement."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    model = load_model(args.checkpoint)
    if not isinstance(model, TextTask):
        raise UserError(f"{args.checkpoint} is not a recognizer: give a checkpoint of task=ctc with encoder=dynamic")
    check_settings(model, args)
    points = measure(model, load_utterances(args, model.sample_rate), args)
    terminal(140).print(table(points))
    if args.json:
        write_json(args.json, [asdict(point) for point in points])
    if args.plot:
        print(save(plot(points), args.plot))
    return 0


if __name__ == "__main__":
    sys.exit(main())
