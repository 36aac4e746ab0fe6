"""Transcription of recordings as the arguments of a command specify."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import torch

from streamnest.console.terminal import printable
from streamnest.downstream.asr.kenlm_ngram import read_ngram
from streamnest.downstream.asr.lm_tuning import Utterance, rates_of
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.recognizer import IncrementalDecoder, StreamingRecognizer
from streamnest.downstream.asr.vocabulary import join
from streamnest.downstream.exported import ExportedRecognizer
from streamnest.downstream.long_audio import RecordingEncoder, note_on_past, note_on_streamed
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.streaming.adaptive import AdaptiveSession, AdaptiveSettings

# Frames that are decoded at a time.
_PART = 4096


class Transcriber:
    """Transcribes audio as the arguments of `streamnest transcribe` specify.

    Attributes:
        seconds: duration of each transcribed item.
        skipped: number of items that could not be transcribed.
        frames: with adaptive look-ahead, the frames of each item in each context.
    """

    def __init__(self, model: TextTask | ExportedRecognizer, args: argparse.Namespace) -> None:
        self.model, self.args = model, args
        self.seconds: list[float] = []
        self.ngram = read_ngram(args.lm) if args.lm else None
        self.search = model.search(args.beam, self.ngram, args.lm_weight, args.bonus) if args.beam else None
        self.max_left_ms = STREAM_LEFT_MS if args.max_left_ms is None else args.max_left_ms
        self.stream = self._new_stream()
        self.encode = RecordingEncoder(model, self.max_left_ms)
        self.skipped, self.frames = 0, list[dict[str, int]]()

    @torch.no_grad()
    def __call__(self, audio: torch.Tensor, name: str) -> dict[str, str]:
        """Returns the `text` of audio `(N,)`, and with a beam search also that of `greedy` decoding.

        Raises:
            UserError: if the audio is too long to be encoded at once by a model that cannot stream.
        """
        if not self.stream:
            return self._decoded(self._frames(audio, name))
        audio, rate = audio.to(self.args.device), self.model.sample_rate
        pieces = audio.split(max(1, round(self.args.chunk_size * rate)))
        text = "".join([*map(self.stream.push, pieces), self.stream.flush()])
        self.seconds.append(len(audio) / rate)
        if isinstance(self.stream.session, AdaptiveSession):
            self.frames += [history.frames for history in self.stream.session.flushed.values()]
        return {"text": text}

    @torch.no_grad()
    def outputs(self, audio: torch.Tensor, name: str) -> torch.Tensor:
        """Returns the inputs of decoding `(T, E)` for audio `(N,)`; raises as a call does."""
        return self.model.outputs(self._frames(audio, name)[None])[0]

    def _frames(self, audio: torch.Tensor, name: str) -> torch.Tensor:
        frames = self.encode(audio.to(self.args.device), name)
        self.seconds.append(len(audio) / self.model.sample_rate)
        return frames

    def _new_stream(self) -> StreamingRecognizer | None:
        if not self.args.stream:
            return None
        return StreamingRecognizer(self.model, self.max_left_ms, AdaptiveSettings.of(self.args))

    def skip(self, reason: str) -> None:
        """Reports audio that cannot be transcribed, and resets the stream, which may have consumed a part of it."""
        print(f"skipped: {printable(reason)}", file=sys.stderr)
        self.skipped += 1
        self.stream = self._new_stream()

    def note(self, what: str) -> str:
        """Returns a note on long audio; empty if there was none."""
        if isinstance(self.model, TextTask) and not self.stream:
            return note_on_streamed(self.model, self.seconds, what, self.args.max_left_ms)
        return note_on_past(self.model, self.seconds, what, self.args.max_left_ms)

    @property
    def adaptive(self) -> AdaptiveSession | None:
        """Session with adaptive look-ahead, once it has streamed an item; None without it."""
        session = self.stream.session if self.stream else None
        return session if isinstance(session, AdaptiveSession) and self.frames else None

    def rates_with(self, utterances: Sequence[Utterance]) -> Callable[[float, float], dict[str, float]]:
        """Returns a function from weight and bonus to the error rates of a beam search over utterances."""
        search = lambda weight, bonus: self.model.search(self.args.beam, self.ngram, weight, bonus)
        return lambda weight, bonus: rates_of(search(weight, bonus), self.model.tokenizer, utterances)

    def greedy(self, outputs: torch.Tensor) -> str:
        """Returns the text of the outputs `(T, E)` of an utterance by greedy decoding."""
        lengths = torch.tensor([len(outputs)], device=outputs.device)
        (tokens,), _ = self.model.decode(outputs[None], lengths, self.model.start(1))
        return join(self.model.tokenizer, tokens)

    def _decoded(self, frames: torch.Tensor) -> dict[str, str]:
        # In parts: the scores of all tokens in a long recording may take gigabytes.
        decoder = IncrementalDecoder(self.model)
        for part in frames.split(_PART):
            decoder.add(part)
        if self.search is None:
            return {"text": decoder.text}
        outputs = self.model.outputs(frames[None])[0]
        return {"text": join(self.model.tokenizer, self.search(outputs)[0].tokens), "greedy": decoder.text}
