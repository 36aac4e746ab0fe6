"""Recognises speech: `streamnest transcribe CKPT FILE_OR_FOLDER ...`, with a checkpoint of task=ctc or rnnt.

An exported model of task=ctc, out.onnx of streamnest export, runs in onnxruntime and hears all audio as a stream.

Prints a line of text for each file. --stream feeds the audio as if it arrived live, with the same text as long as a
stream remembers all of it; files over two minutes are always heard as a stream. --beam searches instead of taking the
best token each time, --lm with an n-gram in ARPA form. `-` reads raw 16-bit little-endian mono PCM at 16 kHz from
standard input as it comes and prints the text as it is decided. With --manifest, a Lhotse cut manifest with texts, its
utterances are recognised and error rates reported, also by speakers as far as its custom field speaker_in_train tells
them apart. Audio that cannot be read is skipped: the exit status is 1 then, and 2 if nothing is left.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from streamnest.checkpoint.loading import load_model, on_device
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
    """The recognizer of a checkpoint or an exported model."""
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
    """Audio to text in the way that the command line asks for; `seconds` are those of what was heard."""

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
        """The text of audio `(N,)`.

        Raises:
            UserError: for what is too long to be heard at once, by a model that cannot stream.
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
        """Reports audio that cannot be recognized, and forgets what a stream has heard of it."""
        print(f"skipped: {printable(reason)}", file=sys.stderr)
        self.skipped += 1
        self.stream = StreamingRecognizer(self.model) if self.args.stream else None

    def note(self, what: str) -> str:
        """What to know about long audio; empty where there was none."""
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
    """Prints and returns the text of each file; those that cannot be read are skipped."""
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
    """Prints and returns the text of each utterance that has a reference, and of which speaker."""
    cuts, report = load_cuts(args.manifest, max_duration=args.max_duration, on_long="skip")
    chosen = suitable(cuts, args.languages, True, report.counts)
    print(f"{printable(args.manifest)}: {len(chosen)} utterances with text of {report}", file=sys.stderr)
    records = []
    for cut in track(chosen, "recognizing", console=terminal(stderr=True), disable=not sys.stderr.isatty()):
        try:
            text = transcribe(torch.from_numpy(load_mono(cut)), "it")
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
    """Prints the text of standard input as it is decided."""
    recognizer, rate, heard = StreamingRecognizer(model), model.sample_rate, 0
    try:
        for piece in standard_input(args.chunk_size, rate):
            heard += len(piece)
            print(printable(recognizer.push(piece.to(args.device))), end="", flush=True)
    except KeyboardInterrupt:
        pass
    print(printable(recognizer.flush()), flush=True)
    if note := note_on_past(model, [heard / rate], "streams"):
        print(note, file=sys.stderr)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="of task=ctc or rnnt; or an exported model of task=ctc, .onnx")
    parser.add_argument("audio", nargs="*", help="files, folders or -")
    parser.add_argument("--manifest", help="recognise and score the utterances of a Lhotse cut manifest")
    parser.add_argument("--languages", nargs="+", help="of the manifest, only these")
    parser.add_argument("--max_duration", type=float, default=30.0, help="of the manifest, no longer ones (seconds)")
    parser.add_argument("--stream", action="store_true", help="feed the audio in pieces, as if it arrived live")
    parser.add_argument("--chunk_size", type=float, default=0.16, help="seconds in a piece")
    parser.add_argument("--beam", type=int, default=0, help="prefixes of a beam search; 0 takes the best token")
    parser.add_argument("--lm", type=Path, help="an n-gram of words or characters, ARPA; for --beam")
    parser.add_argument("--lm_weight", type=float, default=0.5, help="of its log-probability")
    parser.add_argument("--bonus", type=float, default=0.5, help="nats for each token, with --lm")
    parser.add_argument("--context", help="for checkpoints of encoder=dynamic: the name of the context to run with")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    parser.add_argument("--json", type=Path, help="write texts and error rates here")
    args = parser.parse_intermixed_args(argv)
    if bool(args.audio) is bool(args.manifest):
        parser.error("give either audio or --manifest")
    if args.beam and (args.stream or args.audio == ["-"]):
        parser.error("--beam knows its text at the end only: leave out --stream and -")
    if args.lm and not args.beam:
        parser.error("--lm needs --beam")
    return args


def run(args: argparse.Namespace) -> int:
    """Recognises what was asked for."""
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
        groups = [f"{rates[k]:.1%} of {k[4:]} speakers" for k in (f"{unit}_seen", f"{unit}_unseen") if k in rates]
        interval = f"{rates[f'{unit}_low']:.1%} to {rates[f'{unit}_high']:.1%}"
        print(", ".join([f"{unit.upper()} {rates[unit]:.1%} ({interval})", *groups]))
    if args.json:
        write_json(args.json, {"utterances": records, **rates})
    return status_of(len(records), transcribe.skipped)


@without_trace
def main() -> int:
    """Turns a user's mistake into a message and status 2."""
    return run(parse())
