"""Transcribes audio files, live streams and manifests: `streamnest transcribe`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch
from rich.progress import track

from streamnest.checkpoint.loading import load_model, on_device
from streamnest.commands.arguments.transcribe import parse
from streamnest.console.entry_point import status_of, without_trace
from streamnest.console.terminal import printable, terminal
from streamnest.data.audio import BadAudioError, load_mono
from streamnest.data.labels import label_of, suitable
from streamnest.data.manifest import load_cuts
from streamnest.downstream.asr.ngram import NGram
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.recognizer import StreamingRecognizer
from streamnest.downstream.asr.vocabulary import join, normalize_text
from streamnest.downstream.exported import ExportedRecognizer, check_options, is_exported
from streamnest.downstream.long_audio import RecordingEncoder, note_on_past, note_on_streamed
from streamnest.downstream.metrics.error_rates import RecognizedUtterance, summarize
from streamnest.errors import UserError
from streamnest.files.atomic_write import write_json
from streamnest.streaming.audio_sources import find_audio, load_audio, standard_input
from streamnest.streaming.onnx_session import OnnxSession


def load(args: argparse.Namespace) -> TextTask | ExportedRecognizer:
    """Returns the recognizer of a checkpoint or an exported model."""
    if is_exported(args.checkpoint):
        check_options(args.context, args.device)
        return ExportedRecognizer(OnnxSession(args.checkpoint, args.threads))
    model = load_model(args.checkpoint, args.context)
    if not isinstance(model, TextTask):
        raise UserError(
            f"{args.checkpoint} is not an ASR checkpoint; expected task=ctc or task=rnnt: train one with task=ctc "
            f"encoder_from={args.checkpoint}"
        )
    return on_device(model, args.device)


class Transcriber:
    """Transcribes audio as the arguments specify; `seconds` holds the duration of each transcribed item."""

    def __init__(self, model: TextTask | ExportedRecognizer, args: argparse.Namespace) -> None:
        self.model, self.args = model, args
        self.seconds: list[float] = []
        ngram = NGram.read(args.lm) if args.lm else None
        self.search = model.search(args.beam, ngram, args.lm_weight, args.bonus) if args.beam else None
        self.stream = StreamingRecognizer(model) if args.stream else None
        self.encode = RecordingEncoder(model)
        self.skipped = 0

    @torch.no_grad()
    def __call__(self, audio: torch.Tensor, name: str) -> str:
        """Returns the text of audio `(N,)`.

        Raises:
            UserError: if the audio is too long to be encoded at once by a model that cannot stream.
        """
        audio, rate = audio.to(self.args.device), self.model.sample_rate
        if self.stream:
            pieces = audio.split(max(1, round(self.args.chunk_size * rate)))
            text = "".join([*map(self.stream.push, pieces), self.stream.flush()])
        else:
            text = self._decoded(self.encode(audio, name))
        self.seconds.append(len(audio) / rate)
        return text

    def skip(self, reason: str) -> None:
        """Reports audio that cannot be transcribed, and resets the stream, which may have consumed a part of it."""
        print(f"skipped: {printable(reason)}", file=sys.stderr)
        self.skipped += 1
        self.stream = StreamingRecognizer(self.model) if self.args.stream else None

    def note(self, what: str) -> str:
        """Returns a note on long audio; empty if there was none."""
        if isinstance(self.model, TextTask) and not self.stream:
            return note_on_streamed(self.model, self.seconds, what)
        return note_on_past(self.model, self.seconds, what)

    def _decoded(self, frames: torch.Tensor) -> str:
        outputs = self.model.outputs(frames[None])
        if self.search:
            return join(self.model.tokenizer, self.search(outputs[0])[0].tokens)
        lengths = torch.tensor([len(frames)], device=frames.device)
        (tokens,), _ = self.model.decode(outputs, lengths, self.model.start(1))
        return join(self.model.tokenizer, tokens)


def files(transcribe: Transcriber, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints and returns the text of each file; unreadable files are skipped."""
    records = []
    for path in find_audio(args.audio):
        try:
            audio = load_audio(path, transcribe.model.sample_rate)
            text = transcribe(audio, str(path))
        except UserError as error:
            transcribe.skip(str(error))
            continue
        records.append({"file": str(path), "seconds": transcribe.seconds[-1], "text": text})
        print(f"{printable(path)}\t{printable(text)}", flush=True)
    return records


def manifest(transcribe: Transcriber, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints and returns the text of each utterance with a reference, and its speaker."""
    cuts, report = load_cuts(args.manifest, max_duration=args.max_duration, on_long="skip")
    chosen = suitable(cuts, args.languages, True, report.counts)
    print(f"{printable(args.manifest)}: {len(chosen)} utterances with text, out of {report}", file=sys.stderr)
    records = []
    for cut in track(chosen, "recognizing", console=terminal(stderr=True), disable=not sys.stderr.isatty()):
        try:
            text = transcribe(torch.from_numpy(load_mono(cut)), "the utterance")
        except (BadAudioError, UserError) as error:
            transcribe.skip(f"{cut.id}: {error}")
            continue
        label = label_of(cut)
        record = {"id": cut.id, "reference": normalize_text(label.text or ""), "text": text}
        records.append({**record, "speaker": label.speaker, "speaker_in_train": label.speaker_in_train})
        print(f"{printable(cut.id)}\t{printable(text)}", flush=True)
    return records


def error_rates(records: list[dict[str, Any]]) -> dict[str, float]:
    """Error rates of records with references, by known and unknown speakers as far as the records say so."""
    return summarize([RecognizedUtterance(r["id"], r["reference"], r["text"], r["speaker_in_train"]) for r in records])


def live(model: TextTask | ExportedRecognizer, args: argparse.Namespace) -> None:
    """Prints the text of standard input as it is decoded."""
    recognizer, rate, consumed = StreamingRecognizer(model), model.sample_rate, 0
    try:
        for piece in standard_input(args.chunk_size, rate):
            consumed += len(piece)
            print(printable(recognizer.push(piece.to(args.device))), end="", flush=True)
    except KeyboardInterrupt:
        pass
    print(printable(recognizer.flush()), flush=True)
    if note := note_on_past(model, [consumed / rate], "streams"):
        print(note, file=sys.stderr)


def run(args: argparse.Namespace) -> int:
    """Transcribes the audio, and returns the exit status."""
    torch.set_num_threads(args.threads)
    model = load(args)
    if args.audio == ["-"]:
        live(model, args)
        return 0
    transcribe = Transcriber(model, args)
    records = (manifest if args.manifest else files)(transcribe, args)
    if note := transcribe.note("utterances" if args.manifest else "files"):
        print(note, file=sys.stderr)
    rates = error_rates(records) if args.manifest and records else {}
    for unit in (unit for unit in ("wer", "cer") if unit in rates):
        groups = [f"{rates[k]:.1%} for {k[4:]} speakers" for k in (f"{unit}_seen", f"{unit}_unseen") if k in rates]
        interval = f"{rates[f'{unit}_low']:.1%} to {rates[f'{unit}_high']:.1%}"
        print(", ".join([f"{unit.upper()} {rates[unit]:.1%} ({interval})", *groups]))
    if args.json:
        write_json(args.json, {"utterances": records, **rates})
    return status_of(len(records), transcribe.skipped)


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; user errors are one message and status 2."""
    return run(parse(argv))
