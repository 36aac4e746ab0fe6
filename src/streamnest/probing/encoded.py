"""Encoder outputs of utterances, for probes."""

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
from streamnest.probing.phone_labels import ProbeUtterance, frame_phones
from streamnest.streaming.audio_sources import load_audio

# If the manifest has no test set, every fifth utterance belongs to it.
_TEST_EVERY = 5


@dataclass
class EncodedUtterance:
    """An utterance with the output `(T', d)` of each layer and the phone class of each frame, -1 for none."""

    utterance: ProbeUtterance
    layers: list[Tensor]
    phones: Tensor


def choose(utterances: list[ProbeUtterance], most: int, seed: int) -> list[ProbeUtterance]:
    """Samples at most `most` utterances with phones and `most` without."""
    shuffled = random.Random(seed).sample(utterances, len(utterances))
    return [u for u in shuffled if u.phones][:most] + [u for u in shuffled if not u.phones][:most]


def layer_names(encoded: list[EncodedUtterance]) -> list[str]:
    """Returns the names of `EncodedUtterance.layers`."""
    return [INPUT, "subsampling", *(str(n) for n in range(1, len(encoded[0].layers) - 1))]


def encode_utterances(
    model: EncoderTask, utterances: Sequence[ProbeUtterance], classes: dict[str, int]
) -> list[EncodedUtterance]:
    """Runs the encoder; an utterance that cannot be read is skipped with a line on the standard error.

    Raises:
        UserError: if no utterance can be used.
    """
    encoded = []
    for utterance in track(utterances, "encoding", console=terminal(stderr=True), transient=True):
        try:
            audio = load_audio(utterance.path, model.frontend.sample_rate)
        except UserError as error:
            print(f"skipped: {printable(error)}", file=sys.stderr)
            continue
        layers = layer_frames(model, audio)
        if len(layers[0]) > 1:
            phones = frame_phones(utterance, len(layers[0]), model.encoder.frame_ms, classes)
            encoded.append(EncodedUtterance(utterance, layers, phones))
    if not encoded:
        raise UserError(
            "no utterance can be probed: each of them is unreadable or shorter than two encoder frames; check the "
            "paths in the manifest"
        )
    return encoded


def divide(
    encoded: Sequence[EncodedUtterance], by_manifest: bool = True
) -> tuple[list[EncodedUtterance], list[EncodedUtterance]]:
    """Returns training set and test set: those of the manifest, or every fifth utterance as test set.

    Args:
        encoded: all utterances.
        by_manifest: use the splits of the manifest if it has a test set.
    """
    has_test_set = by_manifest and any(one.utterance.split != "train" for one in encoded)
    parts: tuple[list[EncodedUtterance], list[EncodedUtterance]] = [], []
    for number, one in enumerate(encoded):
        in_test_set = one.utterance.split != "train" if has_test_set else number % _TEST_EVERY == 0
        parts[in_test_set].append(one)
    return parts
