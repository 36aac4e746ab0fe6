"""Utterances after the encoder, for probes."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import track
from torch import Tensor

from streamnest.console.terminal import printable, terminal
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.probing.layer_outputs import layer_frames
from streamnest.probing.linear_probe import INPUT
from streamnest.probing.phone_labels import Utterance, frame_phones
from streamnest.streaming.audio_sources import load_audio

# One utterance in so many is tested on.
_TESTED = 5


@dataclass
class Heard:
    """An utterance after the encoder: layers `(T', d)` and the class of each frame, -1 for none."""

    utterance: Utterance
    layers: list[Tensor]
    phones: Tensor


def choose(utterances: list[Utterance], most: int, seed: int) -> list[Utterance]:
    """At most so many utterances with phones, and so many without, drawn with a seed."""
    shuffled = random.Random(seed).sample(utterances, len(utterances))
    return [u for u in shuffled if u.phones][:most] + [u for u in shuffled if not u.phones][:most]


def layer_names(heard: list[Heard]) -> list[str]:
    """Of `Heard.layers`."""
    return [INPUT, "stem", *(str(n) for n in range(1, len(heard[0].layers) - 1))]


def hear(model: EncoderTask, utterances: Sequence[Utterance], classes: dict[str, int]) -> list[Heard]:
    """Runs the encoder; utterances that cannot be read are skipped with a line on the standard error."""
    found = []
    for utterance in track(utterances, "encoding", console=terminal(stderr=True), transient=True):
        try:
            audio = load_audio(utterance.path, model.frontend.sample_rate)
        except UserError as error:
            print(f"skipped: {printable(error)}", file=sys.stderr)
            continue
        layers = layer_frames(model, audio)
        if len(layers[0]) > 1:
            labels = frame_phones(utterance, len(layers[0]), model.encoder.frame_ms, classes)
            found.append(Heard(utterance, layers, labels))
    if not found:
        raise UserError("none of the utterances could be read and was long enough for two frames")
    return found


def divide(heard: Sequence[Heard], by_manifest: bool = True) -> tuple[list[Heard], list[Heard]]:
    """What is fitted on, and what is tested on: as the manifest says, or one utterance in five where it does not."""
    apart = by_manifest and any(h.utterance.split != "train" for h in heard)
    parts: tuple[list[Heard], list[Heard]] = [], []
    for number, one in enumerate(heard):
        tested = one.utterance.split != "train" if apart else number % _TESTED == 0
        parts[tested].append(one)
    return parts
