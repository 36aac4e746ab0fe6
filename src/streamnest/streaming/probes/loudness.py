"""Loudness: dependence on later audio for loud, clipped, silent and irregular audio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from streamnest.encoder_task import EncoderTask
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.futures import future_leak, leak_check, short_audio
from streamnest.streaming.probes.sounds import SOUNDS, sound
from streamnest.streaming.probes.subject import INFERENCE, TRAINING, Mode, Subject
from streamnest.streaming.probes.trace import Leak

# Each changes the statistics of an utterance in another way.
FUTURES = ("loud", "silent", "click", "plain", "faint", "offset")


def loudness(model: EncoderTask, seed: int) -> list[Check]:
    """Checks that audio after a chunk changes no stage before it, at any loudness of both; single utterances."""
    subject = Subject(model)
    inference = loudness_leaks(subject, INFERENCE, SOUNDS, FUTURES)
    training = loudness_leaks(subject, TRAINING, SOUNDS, FUTURES[:3])
    return [leak_check("stages at any loudness", chain(inference, training))]


def loudness_leaks(subject: Subject, mode: Mode, pasts: Iterable[str], futures: Sequence[str]) -> Iterator[Leak]:
    """Finds leaks for each combination of past and future.

    Args:
        subject: model to run.
        mode: mode to run it in.
        pasts: names of `SOUNDS`.
        futures: names of `SOUNDS`.
    """
    audio, boundary = short_audio(subject.reach)
    for past in pasts:
        difference = future_leak(subject, mode, sound(past, audio.shape[1]), boundary, futures)
        if difference is not None:
            yield difference.at(f"{past} audio, {mode.name}")
