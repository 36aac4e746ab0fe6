"""Loudness: loud, clipped, silent and outlying audio, and silence inside speech."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from streamnest.encoder_task import EncoderTask
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.futures import future_leak, leak_check, short_audio
from streamnest.streaming.probes.sounds import SOUNDS, sound
from streamnest.streaming.probes.subject import IN_USE, TRAINING, Mode, Subject
from streamnest.streaming.probes.trace import Leak

# Each moves statistics of an utterance in another way.
FUTURES = ("loud", "silent", "click", "plain", "faint", "offset")


def loudness(model: EncoderTask, seed: int) -> list[Check]:
    """Audio after a chunk changes no stage before it, however loud either is; one utterance at a time."""
    subject = Subject(model)
    use, training = (
        loudness_leaks(subject, IN_USE, SOUNDS, FUTURES),
        loudness_leaks(subject, TRAINING, SOUNDS, FUTURES[:3]),
    )
    return [leak_check("stages, any loudness", chain(use, training))]


def loudness_leaks(subject: Subject, mode: Mode, pasts: Iterable[str], futures: Sequence[str]) -> Iterator[Leak]:
    """Leaks of any past followed by any future.

    Args:
        subject: runs the model.
        mode: how to run it.
        pasts: names of `SOUNDS`.
        futures: names of `SOUNDS`.
    """
    audio, boundary = short_audio(subject.reach)
    for past in pasts:
        found = future_leak(subject, mode, sound(past, audio.shape[1]), boundary, futures)
        if found is not None:
            yield found.at(f"{past} audio, {mode.name}")
