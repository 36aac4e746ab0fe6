"""Says who speaks when: `streamnest diarize CKPT FILE_OR_FOLDER ...`, with a checkpoint of task=diarization.

Prints the turns of each file, as a live stream would give them: start and end in seconds, and a speaker, numbered
anew in each file. An exported model of that task, out.onnx of streamnest export, runs in onnxruntime. --rttm writes
the turns. With --reference, an RTTM file of one or several recordings, or a folder of such files named as the audio
is, the diarisation error rate is printed as well. --picture draws activity over time, the reference above. Files that
cannot be read are skipped: the exit status is 1 then, and 2 if nothing is left.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from streamnest.checkpoint.loading import load_model, on_device
from streamnest.console.entry_point import status_of, without_trace
from streamnest.console.terminal import printable
from streamnest.data.conversations.rttm import field_of, turns_of, write_rttm
from streamnest.data.conversations.simulation import Turn, clipped
from streamnest.downstream.diarization.diarizer import StreamingDiarizer
from streamnest.downstream.diarization.task import Diarizer
from streamnest.downstream.diarization.turns_plot import plot_turns
from streamnest.downstream.exported import ExportedDiarizer, check_options, is_exported
from streamnest.downstream.long_audio import note_on_past
from streamnest.downstream.metrics.diarization_error import PARTS, Scored, Scorer, summarize
from streamnest.errors import UserError
from streamnest.plotting import save, to_numpy
from streamnest.streaming.audio_sources import find_audio, load_audio
from streamnest.streaming.onnx_session import OnnxSession


@dataclass(frozen=True)
class Found:
    """What was found in a file: its seconds, turns, and `(T, S)` probabilities of activity."""

    path: Path
    seconds: float
    turns: list[Turn]
    probabilities: Tensor


def load(args: argparse.Namespace) -> Diarizer | ExportedDiarizer:
    """The model of a checkpoint, or an exported one."""
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


def diarize(stream: StreamingDiarizer, path: Path, args: argparse.Namespace) -> Found:
    """Streams a file in pieces of --chunk_size seconds."""
    rate = stream.model.sample_rate
    audio = load_audio(path, rate)
    pieces = audio.to(args.device).split(max(1, round(args.chunk_size * rate)))
    decided = [*map(stream.push, pieces), stream.flush()]
    active = torch.cat([part.active for part in decided])
    turns = clipped(stream.model.turns(active), len(audio) / rate)
    return Found(path, len(audio) / rate, list(turns), torch.cat([part.probabilities for part in decided]))


def find(args: argparse.Namespace) -> list[Path]:
    """The files to diarise.

    Raises:
        UserError: for two of one name where that is all that tells them apart in what is read or written.
    """
    files, by_name = find_audio(args.audio), dict[str, Path]()
    options = [name for name in ("rttm", "reference", "picture") if getattr(args, name)]
    for path in files if options else ():
        other = by_name.setdefault(field_of(path.stem), path)
        if other is not path:
            raise UserError(f"{other} and {path} have one name for --{options[0]}: rename one, or run them apart")
    return files


def reference_of(args: argparse.Namespace, path: Path, alone: bool) -> Sequence[Turn] | None:
    """The turns that --reference gives for a file, which may be the only one; None without it."""
    if args.reference is None:
        return None
    if args.reference.is_dir():
        return turns_of(args.reference / f"{path.stem}.rttm", path.stem, of_one=True)
    return turns_of(args.reference, path.stem, of_one=alone)


def show(found: Found) -> None:
    """Prints the turns of a file."""
    print(f"{printable(found.path)}: {len({turn.speaker for turn in found.turns})} speakers in {found.seconds:.1f} s")
    for turn in found.turns:
        print(f"  {turn.start:8.2f} {turn.end:8.2f}  {turn.speaker}", flush=True)


def draw(
    found: Found, reference: Sequence[Turn] | None, scorer: Scorer | None, score: Scored | None, out: Path
) -> None:
    """Draws activity, and the reference above."""
    names = [f"speaker {number + 1}" for number in range(found.probabilities.shape[1])]
    assignment = scorer.assignment(reference, found.turns) if scorer and reference is not None else None
    der = f"   DER {score.errors / score.total:.1%}" if score and score.total else ""
    frame_s = found.seconds / max(1, len(found.probabilities))
    probabilities = to_numpy(found.probabilities)
    save(plot_turns(f"{found.path.name}{der}", probabilities, found.turns, names, frame_s, reference, assignment), out)


def picture_path(args: argparse.Namespace, found: Found, many: bool) -> Path:
    """Where the picture of a file goes: --picture, or for several files that name with the file's in it."""
    picture: Path = args.picture
    return picture.with_name(f"{picture.stem}_{found.path.stem}{picture.suffix}") if many else picture


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="of task=diarization, or an exported model of it, .onnx")
    parser.add_argument("audio", nargs="+", help="files or folders")
    parser.add_argument("--rttm", type=Path, help="write the turns of all files here")
    parser.add_argument("--reference", type=Path, help="an RTTM file, or a folder of them")
    parser.add_argument("--collar", type=float, default=None, help="seconds on each side of a boundary, not scored")
    parser.add_argument("--skip_overlap", action="store_true", help="do not score where several speak at once")
    parser.add_argument("--picture", type=Path, help="draw here, .png or .svg; one for each of several files")
    parser.add_argument("--chunk_size", type=float, default=0.16, help="seconds in a piece of the stream")
    parser.add_argument("--context", help="for checkpoints of encoder=dynamic: the name of the context to run with")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace) -> int:
    """Diarises what was asked for."""
    torch.set_num_threads(args.threads)
    files = find(args)
    references = [reference_of(args, path, len(files) == 1) for path in files]
    model = load(args)
    stream, scores, turns = StreamingDiarizer(model), [], {}
    collar = model.settings.collar if args.collar is None else args.collar
    skip_overlap = args.skip_overlap or model.settings.skip_overlap
    scorer = Scorer(collar, skip_overlap) if args.reference else None
    seconds: list[float] = []
    for path, reference in zip(files, references, strict=True):
        try:
            found = diarize(stream, path, args)
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
            # It may have heard a part of the file.
            stream = StreamingDiarizer(model)
            continue
        show(found)
        seconds.append(found.seconds)
        turns[path.stem], score = found.turns, None
        if scorer and reference is not None:
            score = scorer(path.stem, clipped(reference, found.seconds), found.turns, found.seconds)
            scores.append(score)
        if args.picture:
            draw(found, reference, scorer, score, picture_path(args, found, len(files) > 1))
    if args.rttm and turns:
        write_rttm(args.rttm, turns)
    figures = summarize(scores)
    if figures:
        parts = ", ".join(f"{figures[f'der_{part}']:.1%} {part.replace('_', ' ')}" for part in PARTS)
        overlap = "left out" if skip_overlap else "scored"
        print(f"DER {figures['der']:.1%}: {parts}; collar {collar:g} s on each side, overlap {overlap}")
    if note := note_on_past(model, seconds):
        print(note, file=sys.stderr)
    return status_of(len(turns), len(files) - len(seconds))


@without_trace
def main() -> int:
    """Turns a user's mistake into a message and status 2."""
    return run(parse())
