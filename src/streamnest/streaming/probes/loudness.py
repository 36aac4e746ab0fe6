"""Loudness: loud, clipped, silent and outlying audio, and silence inside speech."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.futures import future_leak, short_audio, stages_check
from streamnest.streaming.probes.sounds import SOUNDS, sound
from streamnest.streaming.probes.subject import IN_USE, TRAINING, Mode, Subject
from streamnest.streaming.probes.trace import Difference
from streamnest.task import EncoderTask

# Each moves statistics of an utterance in another way.
FUTURES = ("loud", "silent", "click", "plain", "faint", "offset")


def loudness(model: EncoderTask, seed: int) -> list[Check]:
    """Audio after a chunk changes no stage before it, however loud either is; one utterance at a time."""
    subject = Subject(model)
    found = loudness_leaks(subject, IN_USE, SOUNDS, FUTURES)
    found += loudness_leaks(subject, TRAINING, SOUNDS, FUTURES[:3])
    return [stages_check("stages, any loudness", found)]


def loudness_leaks(
    subject: Subject, mode: Mode, pasts: Iterable[str], futures: Sequence[str]
) -> list[tuple[str, Difference]]:
    """Leaks of any past followed by any future.

    Args:
        subject: runs the model.
        mode: how to run it.
        pasts: names of `SOUNDS`.
        futures: names of `SOUNDS`.
    """
    audio, boundary = short_audio(subject.reach)
    found = []
    for past in pasts:
        difference = future_leak(subject, mode, sound(past, audio.shape[1]), boundary, futures)
        if difference is not None:
            found.append((f"{past} audio, {mode.name}", difference))
    return found
