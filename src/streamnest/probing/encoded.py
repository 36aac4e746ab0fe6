"""Encoder outputs of utterances, for probes."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import track
from torch import Tensor

from streamnest.console.terminal import printable, terminal
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.probing.layer_outputs import layer_frames, step_of
from streamnest.probing.linear_probe import INPUT
from streamnest.probing.phone_labels import ProbeUtterance, frame_phones
from streamnest.streaming.audio_sources import load_audio
from streamnest.streaming.long_forward import FULL_FORWARD_S, is_long, require_windows

# If the manifest has no test set, every fifth utterance belongs to it.
_TEST_EVERY = 5
# Numbers to keep of a long recording, over all layers: 134 MB, of which probes make several copies.
_MOST_VALUES = 1 << 25


@dataclass
class EncodedUtterance:
    """An utterance with the output `(T', d)` of each layer and the phone class of each frame, -1 for none.

    If a recording is too long for one forward pass, only every `step`-th frame is kept.
    """

    utterance: ProbeUtterance
    layers: list[Tensor]
    phones: Tensor
    step: int = 1
    long: bool = False


def choose(utterances: list[ProbeUtterance], most: int, seed: int) -> list[ProbeUtterance]:
    """Samples at most `most` utterances with phones and `most` without."""
    shuffled = random.Random(seed).sample(utterances, len(utterances))
    return [u for u in shuffled if u.phones][:most] + [u for u in shuffled if not u.phones][:most]


def layer_names(encoded: list[EncodedUtterance]) -> list[str]:
    """Returns the names of `EncodedUtterance.layers`."""
    return [INPUT, "subsampling", *(str(n) for n in range(1, len(encoded[0].layers) - 1))]


def encode_utterances(
    model: EncoderTask,
    utterances: Sequence[ProbeUtterance],
    classes: dict[str, int],
    max_left_ms: float = STREAM_LEFT_MS,
) -> list[EncodedUtterance]:
    """Runs the encoder; an utterance that cannot be encoded is skipped with a line on the standard error.

    Args:
        model: encoder in evaluation mode.
        utterances: utterances to encode.
        classes: phones and their numbers.
        max_left_ms: limit of an unlimited left context for recordings over `FULL_FORWARD_S`.

    Raises:
        UserError: if no utterance can be used.
    """
    encoded = []
    for utterance in track(utterances, "encoding", console=terminal(stderr=True), transient=True):
        try:
            one = _encode(model, utterance, classes, max_left_ms)
        except UserError as error:
            print(f"skipped: {printable(error)}", file=sys.stderr)
            continue
        if len(one.phones) > 1:
            encoded.append(one)
    if not encoded:
        raise UserError(
            "no utterance can be probed: each of them is unreadable or shorter than two encoder frames; check the "
            "paths in the manifest"
        )
    return encoded


def _encode(
    model: EncoderTask, utterance: ProbeUtterance, classes: dict[str, int], max_left_ms: float
) -> EncodedUtterance:
    audio, encoder, step, left = load_audio(utterance.path, model.sample_rate), model.encoder, 1, None
    if long := is_long(model, audio):
        require_windows(model, len(audio) / model.sample_rate, str(utterance.path))
        left, step = encoder.left_frames(max_left_ms), step_of(model, audio, _MOST_VALUES)
    layers = layer_frames(model, audio, left, step)
    frames = len(audio) // (model.frontend.hop * encoder.subsampling.factor)
    phones = frame_phones(utterance, frames, encoder.frame_ms, classes)[::step]
    return EncodedUtterance(utterance, layers, phones, step, long)


def note_on_long(model: EncoderTask, encoded: Sequence[EncodedUtterance], max_left_ms: float) -> list[str]:
    """Returns a note on recordings that were too long for one forward pass, if there are any."""
    long = [one for one in encoded if one.long]
    if not long:
        return []
    left = "" if model.encoder.context.left is not None else f", with {max_left_ms / 1000:g} s of left context"
    return [
        f"{len(long)} of {len(encoded)} recordings are longer than {FULL_FORWARD_S:g} s: one frame in "
        f"{max(one.step for one in long)} is probed{left}; their texts are not"
    ]


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
