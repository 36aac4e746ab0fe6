"""Streams audio through a model and measures it: `streamnest stream`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.progress import track

from streamnest.checkpoint.loading import load_model, on_device
from streamnest.commands.arguments.stream import parse
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import printable, terminal
from streamnest.downstream.exported import ExportedRecognizer, check_options, is_exported
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.files.atomic_write import write_json
from streamnest.plotting import draw_code_histogram, draw_difference, draw_prediction, save
from streamnest.streaming import StreamingSession
from streamnest.streaming import simulation as sim
from streamnest.streaming.analysis import analyze_predictions, code_counts
from streamnest.streaming.audio_sources import find_audio, load_audio, standard_input
from streamnest.streaming.onnx_session import OnnxSession
from streamnest.streaming.tables import streamed_tables


def load(args: argparse.Namespace) -> tuple[sim.Session, EncoderTask | None, tuple[float, float]]:
    """Returns a session, its network unless it is an exported one, and mean and worst algorithmic latency in ms."""
    if not is_exported(args.model):
        model = on_device(load_model(args.model, args.context), args.device)
        return StreamingSession(model), model, (model.latency.latency_mean_ms, model.latency.latency_worst_ms)
    check_options(args.context, args.device)
    for name in ("compare_modes", "analyze"):
        if getattr(args, name) and not args.reference:
            raise UserError(
                f"--{name.replace('_', '-')} needs the whole network: give its checkpoint as --reference CKPT"
            )
    session = OnnxSession(args.model, args.threads)
    latency = session.metadata["latency"]
    reference = load_model(args.reference, session.metadata.get("context")) if args.reference else None
    return session, reference, (latency["latency_mean_ms"], latency["latency_worst_ms"])


def stream_files(
    session: sim.Session, model: EncoderTask | None, reader: ExportedRecognizer | None, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], bool]:
    """Streams each file; returns a record of each and whether all comparisons passed.

    Raises:
        UserError: if no file could be read.
    """
    records, equal = list[dict[str, Any]](), True
    files = find_audio(args.audio)
    names = plot_names(files)
    for path in track(files, "streaming", disable=len(files) < 2, console=terminal(stderr=True)):
        try:
            audio = load_audio(path, session.sample_rate)
            outputs, result = sim.simulate_streaming_inference(
                reader.session if reader else session, audio, args.chunk_size, args.realtime
            )
        except UserError as error:
            if len(files) == 1:
                raise
            print(f"skipped: {printable(error)}", file=sys.stderr)
            continue
        found, plots = examine(session, model, audio, path, args) if model else ({}, {})
        found |= {"text": reader.begin().after(outputs).text} if reader else {}
        records.append({"file": str(path), **sim.as_dict(result), **found})
        equal = equal and found.get("comparison", {}).get("equal", True)
        for kind, figure in plots.items() if args.plots else ():
            save(figure, args.plots / f"{names[path]}_{kind}.png")
    if not records:
        raise UserError(f"none of the {len(files)} files could be read")
    if len(records) < len(files):
        print(f"{len(files) - len(records)} of {len(files)} files could not be read", file=sys.stderr)
    return records, equal


def examine(
    session: sim.Session, model: EncoderTask, audio: torch.Tensor, path: Path, args: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Returns the results of --compare-modes and --analyze for a file, and their plots by kind."""
    found, plots = dict[str, Any](), dict[str, Figure]()
    if args.compare_modes:
        comparison = sim.compare_streaming_vs_offline(model, audio, args.chunk_size, args.tolerance, session)
        found["comparison"] = {**sim.as_dict(comparison), "equal": comparison.equal}
        plots["difference"] = draw_difference(comparison.per_frame, session.frame_ms / 1000, args.tolerance)
    if args.analyze:
        found["analysis"], shown = analyze_predictions(model, audio, path.stem)
        plots["predictions"] = draw_prediction(shown)
        plots["codes"] = draw_code_histogram(code_counts(model, shown))
    return found, plots


def plot_names(files: list[Path]) -> dict[Path, str]:
    """Returns names for the plots of files: the file name, after the position in the list if several share it."""
    stems = Counter(path.stem for path in files)
    return {p: p.stem if stems[p.stem] == 1 else f"{n}_{p.stem}" for n, p in enumerate(files, 1)}


def stream_live(session: sim.Session, pieces: Iterator[torch.Tensor], reader: ExportedRecognizer | None = None) -> None:
    """Prints a line for each piece that gave frames, until the input ends or Ctrl-C; then the text, if any."""
    session = reader.session if reader else session
    number, frames, consumed, text = session.open(), 0, 0, reader.begin() if reader else None
    try:
        for piece in pieces:
            consumed += len(piece)
            begin = time.perf_counter()
            out = session.push({number: piece})[number]
            if len(out):
                frames += len(out)
                text = text and text.after(out)
                spent = 1000 * (time.perf_counter() - begin)
                print(f"{consumed / session.sample_rate:8.2f} s of audio  {frames} frames  {spent:.1f} ms", flush=True)
    except KeyboardInterrupt:
        pass
    last = session.flush([number])[number]
    print(f"{consumed / session.sample_rate:8.2f} s of audio  {frames + len(last)} frames  end")
    if text:
        print(printable(text.after(last).text))


def microphone(seconds: float, rate: int) -> Iterator[torch.Tensor]:
    """Yields the samples of the default microphone."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise UserError(f"the microphone needs the package sounddevice and PortAudio: {error}") from None
    try:
        with sounddevice.InputStream(samplerate=rate, channels=1, dtype="float32") as stream:
            while True:
                samples, overflowed = stream.read(max(1, round(seconds * rate)))
                if overflowed:
                    print(
                        "microphone overrun: samples were dropped because a step ran slower than real time",
                        file=sys.stderr,
                    )
                yield torch.from_numpy(samples[:, 0].copy())
    except sounddevice.PortAudioError as error:
        raise UserError(f"the microphone cannot be read: {error}") from None


def run(args: argparse.Namespace) -> int:
    """Streams the audio, and returns the exit status."""
    torch.set_num_threads(args.threads)
    live = args.audio in (["-"], ["mic"])
    for name in ("compare_modes", "analyze", "realtime", "json", "plots") if live else ():
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')} needs files: {args.audio[0]} is a live input")
    session, model, latency = load(args)
    if args.chunk_size is None:
        args.chunk_size = session.chunk_samples / session.sample_rate
    if args.tolerance is None:
        args.tolerance = 1e-4 if is_exported(args.model) else sim.TOLERANCE
    reader = ExportedRecognizer.of(session) if isinstance(session, OnnxSession) else None
    if live:
        source = standard_input if args.audio == ["-"] else microphone
        stream_live(session, source(args.chunk_size, session.sample_rate), reader)
        return 0
    records, equal = stream_files(session, model, reader, args)
    console = terminal(160)
    console.print(*streamed_tables(records))
    console.print(f"algorithmic latency {latency[0]:.1f} ms mean, {latency[1]:.1f} ms worst")
    for record in records if reader else ():
        print(f"{printable(record['file'])}\t{printable(record['text'])}")
    if args.json:
        write_json(args.json, records)
    if not equal:
        print(f"streamed and offline frames differ by more than {args.tolerance:g}", file=sys.stderr)
    return 0 if equal else 1


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; user errors are one message and status 2."""
    return run(parse(argv))
