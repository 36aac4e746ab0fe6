"""Transcribes speech with a checkpoint of task=ctc or task=rnnt: `streamnest transcribe MODEL AUDIO ...`.

Prints one line of text for each file. A CTC graph from streamnest export (.onnx) runs in onnxruntime, always as a
stream. --stream feeds the audio in pieces as if it arrived live; the text is the same as long as the left context
covers the whole file. Files longer than two minutes are always streamed. `-` reads raw 16-bit little-endian mono PCM at
16 kHz from standard input and prints text as it is decoded.

--manifest transcribes a Lhotse cut manifest with texts and reports error rates, also for seen and unseen speakers if
the cuts have the custom field speaker_in_train. With --beam it reports those of greedy decoding as well. --tune-lm
chooses --lm-weight and --bonus on a development set.

Audio that cannot be read is skipped: exit status 1 if some was, 2 if all was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.commands.arguments import add_adaptive, add_max_left_ms
from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import CHUNK_S, NOT_NEGATIVE, POSITIVE, THREADS, Number, output_file


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest transcribe", __doc__)
    made.add_argument("checkpoint", metavar="MODEL", help="checkpoint of task=ctc or rnnt, or exported CTC graph")
    made.add_argument("audio", nargs="*", metavar="AUDIO", help="files, folders or -")
    made.add_argument("--stream", action="store_true", help="feed the audio in pieces, as if it arrived live")
    made.add_argument("--chunk-size", type=CHUNK_S, default=0.16, help="seconds per piece")
    made.add_argument("--context", metavar="NAME", help="latency context of an encoder=dynamic checkpoint")
    add_max_left_ms(made)
    add_adaptive(made)
    made.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    made.add_argument("--threads", type=THREADS, default=1, help="CPU threads")
    made.add_argument("--json", type=output_file, help="write texts and error rates to this file")
    scoring = made.add_argument_group("scoring")
    scoring.add_argument("--manifest", metavar="PATH", help="Lhotse cuts to transcribe and score, instead of AUDIO")
    scoring.add_argument("--languages", nargs="+", metavar="LANGUAGE", help="only cuts of these languages")
    scoring.add_argument("--max-duration", type=POSITIVE, default=30.0, help="skip longer cuts (seconds)")
    search = made.add_argument_group("beam search")
    search.add_argument("--beam", type=Number(int, 0, 1000), default=0, help="number of prefixes; 0 is greedy decoding")
    search.add_argument("--lm", type=Path, help="n-gram from streamnest language-model or another ARPA file")
    search.add_argument("--lm-weight", type=NOT_NEGATIVE, default=0.5, help="weight of its log-probability")
    search.add_argument("--bonus", type=float, default=0.5, help="nats added per token, with --lm")
    search.add_argument(
        "--tune-lm",
        choices=["wer", "cer"],
        help="search for the weight and the bonus with the lowest error rate on --manifest, instead of printing texts",
    )
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line and refuses combinations that exclude each other."""
    made = parser()
    args = made.parse(argv)
    if bool(args.audio) is bool(args.manifest):
        made.error("give either audio or --manifest")
    if args.beam and (args.stream or args.audio == ["-"]):
        made.error("--beam decodes at the end of the audio: leave out --stream and -")
    if args.adaptive and args.context:
        made.error("--adaptive chooses the context of each chunk: leave out --context")
    if args.adaptive and not (args.stream or args.audio == ["-"]):
        made.error("--adaptive needs --stream")
    if args.lm and not args.beam:
        made.error("--lm needs --beam")
    made.require(args, "adaptive_rule", "adaptive_contexts", needs="adaptive")
    made.require(args, "languages", "max_duration", needs="manifest")
    made.require(args, "lm_weight", "bonus", needs="lm")
    if args.tune_lm and not (args.lm and args.manifest):
        made.error("--tune-lm needs --lm and --manifest")
    return args
