"""Transcribes audio files, live streams and manifests: `streamnest transcribe`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from lhotse.cut import Cut
from rich.progress import track

from streamnest.checkpoint.loading import load_model, on_device
from streamnest.commands.arguments.transcribe import parse
from streamnest.console.entry_point import status_of, without_trace
from streamnest.console.terminal import printable, terminal
from streamnest.data.audio import BadAudioError, load_mono
from streamnest.data.labels import Label, label_of, suitable
from streamnest.data.manifest import load_cuts
from streamnest.downstream.asr.lm_tuning import Utterance, best, grid
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.recognizer import StreamingRecognizer
from streamnest.downstream.asr.transcriber import Transcriber
from streamnest.downstream.asr.vocabulary import normalize_text
from streamnest.downstream.exported import ExportedRecognizer, check_options, is_exported
from streamnest.downstream.long_audio import note_on_past
from streamnest.downstream.metrics.error_rates import RecognizedUtterance, summarize
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.errors import UserError
from streamnest.files.atomic_write import json_values, write_json
from streamnest.streaming.adaptive import AdaptiveSettings
from streamnest.streaming.adaptive.report import latency_line, mean_of
from streamnest.streaming.audio_sources import find_audio, load_audio, standard_input
from streamnest.streaming.onnx_session import OnnxSession


def load(args: argparse.Namespace) -> TextTask | ExportedRecognizer:
    """Returns the recognizer of a checkpoint or an exported model."""
    if is_exported(args.checkpoint):
        check_options(args.context, args.device, args.max_left_ms)
        return ExportedRecognizer(OnnxSession(args.checkpoint, args.threads))
    model = load_model(args.checkpoint, args.context)
    if not isinstance(model, TextTask):
        raise UserError(
            f"{args.checkpoint} is not an ASR checkpoint; expected task=ctc or task=rnnt: train one with task=ctc "
            f"encoder_from={args.checkpoint}"
        )
    return on_device(model, args.device)


def files(transcribe: Transcriber, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints and returns the text of each file; unreadable files are skipped."""
    records = []
    for path in find_audio(args.audio):
        try:
            audio = load_audio(path, transcribe.model.sample_rate)
            texts = transcribe(audio, str(path))
        except UserError as error:
            transcribe.skip(str(error))
            continue
        records.append({"file": str(path), "seconds": transcribe.seconds[-1], **texts})
        print(f"{printable(path)}\t{printable(texts['text'])}", flush=True)
    return records


def scored_cuts(args: argparse.Namespace) -> Iterator[tuple[Cut, Label]]:
    """Yields the cuts of the manifest that have a text, and their labels.

    Raises:
        UserError: if there are none.
    """
    cuts, report = load_cuts(args.manifest, max_duration=args.max_duration, on_long="skip")
    chosen = suitable(cuts, args.languages, True, report.counts)
    print(f"{printable(args.manifest)}: {len(chosen)} utterances with text, out of {report}", file=sys.stderr)
    if not chosen:
        languages = " or ".join(args.languages or ["any language"])
        raise UserError(
            f"--manifest {args.manifest} has no utterance with text in {languages} of at most {args.max_duration:g} s: "
            "give cuts with texts, or other --languages or --max-duration"
        )
    for cut in track(chosen, "recognizing", console=terminal(stderr=True), disable=not sys.stderr.isatty()):
        yield cut, label_of(cut)


def manifest(transcribe: Transcriber, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints and returns the text of each utterance with a reference, and its speaker."""
    records = []
    for cut, label in scored_cuts(args):
        try:
            texts = transcribe(torch.from_numpy(load_mono(cut)), "the utterance")
        except (BadAudioError, UserError) as error:
            transcribe.skip(f"{cut.id}: {error}")
            continue
        record = {"id": cut.id, "reference": normalize_text(label.text or ""), **texts}
        records.append({**record, "speaker": label.speaker, "speaker_in_train": label.speaker_in_train})
        print(f"{printable(cut.id)}\t{printable(texts['text'])}", flush=True)
    return records


def error_rates(records: list[dict[str, Any]], text: str = "text") -> dict[str, float]:
    """Returns error rates of records with references, also for seen and unseen speakers if the records have both."""
    return summarize([RecognizedUtterance(r["id"], r["reference"], r[text], r["speaker_in_train"]) for r in records])


def print_rates(rates: dict[str, float], decoding: str = "") -> None:
    """Prints one line for each error rate, with its interval."""
    for unit in (unit for unit in ("wer", "cer") if unit in rates):
        groups = [f"{rates[k]:.1%} for {k[4:]} speakers" for k in (f"{unit}_seen", f"{unit}_unseen") if k in rates]
        interval = f"{rates[f'{unit}_low']:.1%} to {rates[f'{unit}_high']:.1%}"
        print(", ".join([f"{decoding}{unit.upper()} {rates[unit]:.1%} ({interval})", *groups]))


def tune(transcribe: Transcriber, args: argparse.Namespace) -> int:
    """Searches for the weights of the language model on the manifest, and returns the number of utterances.

    Raises:
        UserError: if no utterance of the manifest can be used.
    """
    utterances = []
    for cut, label in scored_cuts(args):
        try:
            outputs = transcribe.outputs(torch.from_numpy(load_mono(cut)), "the utterance")
        except (BadAudioError, UserError) as error:
            transcribe.skip(f"{cut.id}: {error}")
            continue
        utterances.append(Utterance(cut.id, outputs, normalize_text(label.text or "")))
    if not utterances:
        raise UserError(f"--manifest {args.manifest}: none of its utterances can be used to tune on")
    greedy = summarize([RecognizedUtterance(u.id, u.reference, transcribe.greedy(u.outputs), None) for u in utterances])
    trials = []
    print("lm_weight  bonus    WER    CER")
    for trial in grid(transcribe.rates_with(utterances), args.tune_lm):
        trials.append(trial)
        print(
            f"{trial.lm_weight:9.3f} {trial.bonus:6.2f} {trial.rates['wer']:6.1%} {trial.rates['cer']:6.1%}", flush=True
        )
    chosen = best(trials, args.tune_lm)
    print_rates(greedy, "greedy decoding: ")
    print_rates(chosen.rates, "beam search with the best weights: ")
    weights = f"--lm-weight {chosen.lm_weight:g} --bonus {chosen.bonus:g}"
    print(f"lowest {args.tune_lm.upper()} on this manifest: --beam {args.beam} {weights}")
    if args.json:
        write_json(args.json, {"greedy": greedy, "best": asdict(chosen), "trials": [asdict(trial) for trial in trials]})
    return len(utterances)


def live(model: TextTask | ExportedRecognizer, args: argparse.Namespace) -> None:
    """Prints the text of standard input as it is decoded."""
    left = STREAM_LEFT_MS if args.max_left_ms is None else args.max_left_ms
    recognizer = StreamingRecognizer(model, left, AdaptiveSettings.of(args))
    rate, consumed = model.sample_rate, 0
    try:
        for piece in standard_input(args.chunk_size, rate):
            consumed += len(piece)
            print(printable(recognizer.push(piece.to(args.device))), end="", flush=True)
    except KeyboardInterrupt:
        pass
    print(printable(recognizer.flush()), flush=True)
    if note := note_on_past(model, [consumed / rate], "streams", args.max_left_ms):
        print(note, file=sys.stderr)


def latency_of(
    model: TextTask | ExportedRecognizer, context: str | None, transcribe: Transcriber | None = None
) -> dict[str, Any]:
    """Returns the context of a checkpoint and its mean and worst latency, None for the whole utterance."""
    if isinstance(model, ExportedRecognizer):
        return {}
    names = ("latency_mean_ms", "latency_worst_ms")
    values = {name: float(getattr(model.latency, name)) for name in names}
    if transcribe and (session := transcribe.adaptive):
        values = dict(zip(names, (mean_of(transcribe.frames, session), session.worst_ms), strict=True))
    return {"context": context, **json_values(values)}


def run(args: argparse.Namespace) -> int:
    """Transcribes the audio, and returns the exit status."""
    torch.set_num_threads(args.threads)
    model = load(args)
    if args.audio == ["-"]:
        live(model, args)
        return 0
    transcribe = Transcriber(model, args)
    if args.tune_lm:
        return status_of(tune(transcribe, args), transcribe.skipped)
    records = (manifest if args.manifest else files)(transcribe, args)
    if note := transcribe.note("utterances" if args.manifest else "files"):
        print(note, file=sys.stderr)
    if transcribe.adaptive:
        print(latency_line(transcribe.frames, transcribe.adaptive), file=sys.stderr)
    rates = error_rates(records) if args.manifest and records else {}
    greedy = error_rates(records, "greedy") if rates and args.beam else {}
    print_rates(greedy, "greedy decoding: ")
    print_rates(rates, "beam search: " if args.beam else "")
    if args.json:
        latency = latency_of(model, args.context, transcribe)
        write_json(args.json, {"utterances": records, **latency, **rates, **({"greedy": greedy} if greedy else {})})
    return status_of(len(records), transcribe.skipped)


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; user errors are one message and status 2."""
    return run(parse(argv))
