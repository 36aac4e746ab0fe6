"""Prints the speaker turns of audio files and scores them against a reference: `streamnest diarize`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from streamnest.checkpoint.loading import load_model, on_device
from streamnest.commands.arguments.diarize import parse
from streamnest.console.entry_point import status_of, without_trace
from streamnest.console.terminal import printable
from streamnest.data.conversations.rttm import field_of, turns_of, write_rttm
from streamnest.data.conversations.simulation import Turn, clipped
from streamnest.downstream.diarization.activity import Decision
from streamnest.downstream.diarization.diarizer import StreamingDiarizer
from streamnest.downstream.diarization.task import Diarizer
from streamnest.downstream.diarization.turns_plot import plot_turns
from streamnest.downstream.exported import ExportedDiarizer, check_options, is_exported
from streamnest.downstream.long_audio import note_on_past
from streamnest.downstream.metrics.diarization_error import PARTS, Scored, Scorer, summarize
from streamnest.downstream.metrics.trivial_diarization import describe_trivial, score_trivial, trivial_rates
from streamnest.errors import UserError
from streamnest.plotting import save, to_numpy
from streamnest.streaming.audio_sources import find_audio, load_audio
from streamnest.streaming.onnx_session import OnnxSession


@dataclass(frozen=True)
class Diarized:
    """Duration of a file in seconds, its turns, and `(T, S)` probabilities of activity."""

    path: Path
    seconds: float
    turns: list[Turn]
    probabilities: Tensor


def load(args: argparse.Namespace) -> Diarizer | ExportedDiarizer:
    """Returns the model of a checkpoint or an exported one, with the threshold of `--threshold`."""
    model = stored_model(args)
    if args.threshold is not None:
        model.decision = Decision(args.threshold, model.decision.past, model.decision.future)
    return model


def stored_model(args: argparse.Namespace) -> Diarizer | ExportedDiarizer:
    """Returns the model of a checkpoint, or an exported one."""
    if is_exported(args.checkpoint):
        check_options(args.context, args.device)
        return ExportedDiarizer(OnnxSession(args.checkpoint, args.threads))
    model = load_model(args.checkpoint, args.context)
    if not isinstance(model, Diarizer):
        raise UserError(
            f"{args.checkpoint} is not a diarization checkpoint; expected task=diarization: train one with "
            f"task=diarization encoder_from={args.checkpoint}"
        )
    return on_device(model, args.device)


def diarize(stream: StreamingDiarizer, path: Path, args: argparse.Namespace) -> Diarized:
    """Streams a file in pieces of --chunk-size seconds."""
    rate = stream.model.sample_rate
    audio = load_audio(path, rate)
    pieces = audio.to(args.device).split(max(1, round(args.chunk_size * rate)))
    decided = [*map(stream.push, pieces), stream.flush()]
    active = torch.cat([part.active for part in decided])
    turns = clipped(stream.model.turns(active), len(audio) / rate)
    return Diarized(path, len(audio) / rate, list(turns), torch.cat([part.probabilities for part in decided]))


def find(args: argparse.Namespace) -> list[Path]:
    """Returns the files to diarize.

    Raises:
        UserError: if two files share a name, and an option reads or writes something by name.
    """
    files, by_name = find_audio(args.audio), dict[str, Path]()
    options = [name for name in ("rttm", "reference", "plot") if getattr(args, name)]
    for path in files if options else ():
        other = by_name.setdefault(field_of(path.stem), path)
        if other is not path:
            raise UserError(
                f"{other} and {path} have the same name, but --{options[0]} refers to files by name: rename one, or "
                "run the command once for each"
            )
    return files


def reference_of(args: argparse.Namespace, path: Path, alone: bool) -> Sequence[Turn] | None:
    """Returns the reference turns of a file, None without --reference.

    Args:
        args: arguments of the command.
        path: audio file.
        alone: True for the only file, for which the recording name in the RTTM file does not matter.
    """
    if args.reference is None:
        return None
    if args.reference.is_dir():
        return turns_of(args.reference / f"{path.stem}.rttm", path.stem, of_one=True)
    return turns_of(args.reference, path.stem, of_one=alone)


def show(found: Diarized) -> None:
    """Prints the turns of a file."""
    print(f"{printable(found.path)}: {len({turn.speaker for turn in found.turns})} speakers in {found.seconds:.1f} s")
    for turn in found.turns:
        print(f"  {turn.start:8.2f} {turn.end:8.2f}  {turn.speaker}", flush=True)


def draw(
    found: Diarized, reference: Sequence[Turn] | None, scorer: Scorer | None, score: Scored | None, out: Path
) -> None:
    """Plots the activity of the speakers, with the reference above it."""
    names = [f"speaker {number + 1}" for number in range(found.probabilities.shape[1])]
    assignment = scorer.assignment(reference, found.turns) if scorer and reference is not None else None
    der = f"   DER {score.errors / score.total:.1%}" if score and score.total else ""
    frame_s = found.seconds / max(1, len(found.probabilities))
    probabilities = to_numpy(found.probabilities)
    save(
        plot_turns(
            f"Speaker activity: {found.path.name}{der}",
            probabilities,
            found.turns,
            names,
            frame_s,
            reference,
            assignment,
        ),
        out,
    )


def plot_path(args: argparse.Namespace, found: Diarized, many: bool) -> Path:
    """Returns the path of a plot: --plot, or for several files that name followed by the name of the file."""
    plot: Path = args.plot
    return plot.with_name(f"{plot.stem}_{found.path.stem}{plot.suffix}") if many else plot


def run(args: argparse.Namespace) -> int:
    """Diarizes the files, and returns the exit status."""
    torch.set_num_threads(args.threads)
    files = find(args)
    references = [reference_of(args, path, len(files) == 1) for path in files]
    model = load(args)
    stream, scores, turns = StreamingDiarizer(model), [], {}
    collar = model.settings.collar if args.collar is None else args.collar
    skip_overlap = args.skip_overlap or model.settings.skip_overlap
    scorer = Scorer(collar, skip_overlap) if args.reference else None
    seconds: list[float] = []
    trivial: list[dict[str, Scored]] = []
    for path, reference in zip(files, references, strict=True):
        try:
            found = diarize(stream, path, args)
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
            # The stream may have consumed a part of the file.
            stream = StreamingDiarizer(model)
            continue
        show(found)
        seconds.append(found.seconds)
        turns[path.stem], score = found.turns, None
        if scorer and reference is not None:
            spoken = clipped(reference, found.seconds)
            score = scorer(path.stem, spoken, found.turns, found.seconds)
            scores.append(score)
            trivial.append(score_trivial(scorer, path.stem, spoken, found.seconds))
        if args.plot:
            draw(found, reference, scorer, score, plot_path(args, found, len(files) > 1))
    if args.rttm and turns:
        write_rttm(args.rttm, turns)
    figures = summarize(scores)
    if figures:
        parts = ", ".join(f"{figures[f'der_{part}']:.1%} {part.replace('_', ' ')}" for part in PARTS)
        overlap = "not scored" if skip_overlap else "scored"
        print(f"DER {figures['der']:.1%}: {parts}; collar {collar:g} s on each side, overlap {overlap}")
        print(f"without a model: {describe_trivial(trivial_rates(trivial))}")
    elif scores:
        print(f"no DER: the references have no speech outside the collar of {collar:g} s on each side of a boundary")
    if note := note_on_past(model, seconds):
        print(note, file=sys.stderr)
    return status_of(len(turns), len(files) - len(seconds))


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; user errors are one message and status 2."""
    return run(parse(argv))
