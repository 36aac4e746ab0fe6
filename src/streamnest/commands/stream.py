"""Streams audio through a model and measures it: `streamnest stream`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.progress import track

from streamnest.checkpoint.loading import load_model, on_device
from streamnest.commands.arguments.stream import parse
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import printable, terminal
from streamnest.downstream.exported import ONE_CONTEXT, ExportedRecognizer, check_options, is_exported
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.files.atomic_write import json_values, write_json
from streamnest.plotting import plot_code_histogram, plot_prediction, save
from streamnest.probing.analysis import analyze_predictions, code_counts
from streamnest.streaming import StreamingSession
from streamnest.streaming.adaptive import AdaptiveSession, AdaptiveSettings
from streamnest.streaming.adaptive.chosen_chunks import compare_with_chunks
from streamnest.streaming.adaptive.history import History
from streamnest.streaming.adaptive.report import latency_line, plot_choices, record_of, share_table
from streamnest.streaming.audio_sources import find_audio, load_audio, standard_input
from streamnest.streaming.comparison import TOLERANCE, compare_streaming_vs_offline
from streamnest.streaming.onnx_session import OnnxSession
from streamnest.streaming.plots import plot_difference
from streamnest.streaming.session_base import Session
from streamnest.streaming.simulation import simulate_streaming_inference
from streamnest.streaming.tables import streamed_tables, verdict


def load(args: argparse.Namespace) -> tuple[Session[Any], EncoderTask | None, tuple[float, float]]:
    """Loads a session, its PyTorch model if there is one, and the mean and worst algorithmic latency."""
    if not is_exported(args.model):
        model = on_device(load_model(args.model, args.context), args.device)
        left = STREAM_LEFT_MS if args.max_left_ms is None else args.max_left_ms
        if adaptive := AdaptiveSettings.of(args):
            chooser = AdaptiveSession(model, adaptive, left)
            return chooser, model, (adaptive.budget_ms, chooser.worst_ms)
        return StreamingSession(model, left), model, (model.latency.latency_mean_ms, model.latency.latency_worst_ms)
    check_options(args.context, args.device, args.max_left_ms)
    if args.adaptive:
        raise UserError(ONE_CONTEXT)
    for name in ("compare_modes", "analyze"):
        if getattr(args, name) and not args.reference:
            raise UserError(
                f"--{name.replace('_', '-')} needs the checkpoint of the exported model: add --reference CKPT"
            )
    session = OnnxSession(args.model, args.threads)
    latency = session.metadata["latency"]
    reference = load_model(args.reference, session.metadata.get("context")) if args.reference else None
    return session, reference, (latency["latency_mean_ms"], latency["latency_worst_ms"])


def stream_files(
    session: Session[Any], model: EncoderTask | None, reader: ExportedRecognizer | None, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], bool]:
    """Streams each file; returns a record of each and whether streamed and offline frames agree in all.

    Raises:
        UserError: if no file can be read.
    """
    records, equal = list[dict[str, Any]](), True
    files = find_audio(args.audio)
    names = plot_names(files)
    for path in track(files, "streaming", disable=args.realtime or len(files) < 2, console=terminal(stderr=True)):
        try:
            audio = load_audio(path, session.sample_rate)
            outputs, result = simulate_streaming_inference(
                reader.session if reader else session,
                audio,
                args.chunk_size,
                args.realtime,
                announced(path, len(audio) / session.sample_rate) if args.realtime else None,
            )
        except UserError as error:
            if len(files) == 1:
                raise
            print(f"skipped: {printable(error)}", file=sys.stderr)
            continue
        history = session.flushed.popitem()[1] if isinstance(session, AdaptiveSession) else None
        fields, plots = (
            examine(session, model, audio, path, args, None if reader else outputs, history) if model else ({}, {})
        )
        fields |= {"text": reader.begin().after(outputs).text} if reader else {}
        records.append({"file": str(path), **json_values(asdict(result)), **fields})
        equal = equal and fields.get("comparison", {}).get("equal", True)
        for kind, figure in plots.items() if args.plots else ():
            save(figure, args.plots / f"{names[path]}_{kind}.png")
    if not records:
        raise UserError(f"none of the {len(files)} files could be read")
    if len(records) < len(files):
        print(f"{len(files) - len(records)} of {len(files)} files could not be read", file=sys.stderr)
    return records, equal


def announced(path: Path, seconds: float, every: float = 5.0) -> Callable[[float], None]:
    """Prints that a file is streamed in real time; returns a function that prints the progress every few seconds."""
    print(f"streaming {printable(path)} in real time, {seconds:.1f} s", file=sys.stderr, flush=True)
    due = every

    def progress(arrived: float) -> None:
        nonlocal due
        if arrived >= due:
            print(f"  {arrived:.0f} of {seconds:.0f} s", file=sys.stderr, flush=True)
            due += every

    return progress


def examine(
    session: Session[Any],
    model: EncoderTask,
    audio: torch.Tensor,
    path: Path,
    args: argparse.Namespace,
    streamed: torch.Tensor | None,
    history: History | None = None,
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Runs --compare-modes, --analyze and --adaptive for a file; returns fields of its record, and plots by name.

    Args:
        session: session that streams the file.
        model: model of the session in PyTorch.
        audio: `(N,)` at the model's rate.
        path: the file.
        args: arguments of the command.
        streamed: frames `(T', d)` that the session has emitted; None to stream the file again.
        history: contexts that a session with adaptive look-ahead has chosen.
    """
    fields, plots = dict[str, Any](), dict[str, Figure]()
    if history and isinstance(session, AdaptiveSession):
        fields["adaptive"] = record_of(history)
        plots["contexts"] = plot_choices(history, session.contexts, session.frame_ms, f"Contexts of {path.stem}")
    if args.compare_modes:
        if history and streamed is not None:
            comparison = compare_with_chunks(model, audio, streamed, history.chunks, args.tolerance)
        else:
            comparison = compare_streaming_vs_offline(model, audio, args.chunk_size, args.tolerance, session, streamed)
        fields["comparison"] = {**json_values(asdict(comparison)), "equal": comparison.equal}
        plots["difference"] = plot_difference(comparison.per_frame, session.frame_ms / 1000, args.tolerance)
    if args.analyze:
        fields["analysis"], prediction = analyze_predictions(model, audio, path.stem)
        plots["predictions"] = plot_prediction(prediction)
        plots["codes"] = plot_code_histogram(code_counts(model, prediction))
    return fields, plots


def plot_names(files: list[Path]) -> dict[Path, str]:
    """Returns the names of plots: the file name, preceded by the number of the file if several have the same name."""
    uses = Counter(path.stem for path in files)
    return {p: p.stem if uses[p.stem] == 1 else f"{n}_{p.stem}" for n, p in enumerate(files, 1)}


def stream_live(
    session: Session[Any], pieces: Iterator[torch.Tensor], reader: ExportedRecognizer | None = None
) -> None:
    """Prints a line for each piece that emits frames, until the input ends or Ctrl-C; then the text if there is one."""
    session = reader.session if reader else session
    number, frames, num_samples, text = session.open(), 0, 0, reader.begin() if reader else None
    try:
        for piece in pieces:
            num_samples += len(piece)
            start = time.perf_counter()
            out = session.push({number: piece})[number]
            if len(out):
                frames += len(out)
                text = text and text.after(out)
                spent = 1000 * (time.perf_counter() - start)
                seconds = num_samples / session.sample_rate
                print(f"{seconds:8.2f} s of audio  {frames} frames  {spent:.1f} ms", flush=True)
    except KeyboardInterrupt:
        pass
    last = session.flush([number])[number]
    print(f"{num_samples / session.sample_rate:8.2f} s of audio  {frames + len(last)} frames  end")
    if text:
        print(printable(text.after(last).text))


def microphone(seconds: float, rate: int) -> Iterator[torch.Tensor]:
    """Yields samples of the default microphone; reports overruns."""
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
                        "input overrun: samples were dropped because a step ran slower than real time", file=sys.stderr
                    )
                yield torch.from_numpy(samples[:, 0].copy())
    except sounddevice.PortAudioError as error:
        raise UserError(f"the microphone cannot be read: {error}") from None


def run(args: argparse.Namespace) -> int:
    """Streams the files, the standard input or the microphone, and returns the exit status."""
    torch.set_num_threads(args.threads)
    live = args.audio in (["-"], ["mic"])
    for name in ("compare_modes", "analyze", "realtime", "json", "plots") if live else ():
        if getattr(args, name):
            raise UserError(
                f"--{name.replace('_', '-')} needs files: {args.audio[0]} is a live input, which is read only once"
            )
    session, model, latency = load(args)
    if args.chunk_size is None:
        args.chunk_size = session.chunk_samples / session.sample_rate
    if args.tolerance is None:
        args.tolerance = 1e-4 if is_exported(args.model) else TOLERANCE
    reader = ExportedRecognizer.of(session) if isinstance(session, OnnxSession) else None
    if live:
        source = standard_input if args.audio == ["-"] else microphone
        seconds = args.chunk_size or session.chunk_samples / session.sample_rate
        stream_live(session, source(seconds, session.sample_rate), reader)
        return 0
    records, equal = stream_files(session, model, reader, args)
    console = terminal(80)
    console.print(*streamed_tables(records))
    if isinstance(session, AdaptiveSession):
        console.print(share_table(records, session.contexts))
        console.print(latency_line([record["adaptive"]["frames"] for record in records], session))
    else:
        console.print(f"algorithmic latency {latency[0]:.1f} ms mean, {latency[1]:.1f} ms worst")
    for record in records if reader else ():
        print(f"{printable(record['file'])}\t{printable(record['text'])}")
    if args.json:
        write_json(args.json, records)
    for line in verdict(records, args.tolerance):
        print(line, file=sys.stdout if equal else sys.stderr)
    return 0 if equal else 1


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; user errors are one message and status 2."""
    return run(parse(argv))
