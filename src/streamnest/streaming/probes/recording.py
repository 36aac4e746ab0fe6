"""A recording: its stream equals the offline output, however long it is."""

from __future__ import annotations

import random

from torch import Tensor

from streamnest.encoder_task import EncoderTask
from streamnest.streaming.probes.check import TOLERANCES, Check, Probe
from streamnest.streaming.simulation import compare_streaming_vs_offline

# Range of the random seconds of audio that are pushed at a time.
_SHORTEST, _LONGEST = 0.05, 5.0


def recording(audio: Tensor, name: str) -> Probe:
    """Returns a probe that compares the stream of audio `(N,)` with the offline output; see the comparison for limits.

    Args:
        audio: samples at the model's rate.
        name: name of the recording in the certificate.
    """

    def probe(model: EncoderTask, seed: int) -> list[Check]:
        pieces, tolerance = random.Random(seed).uniform(_SHORTEST, _LONGEST), TOLERANCES["float32"]
        comparison = compare_streaming_vs_offline(model, audio, pieces, tolerance)
        limit, cap = comparison.max_left_ms, comparison.cap_frames
        context = "" if limit is None else f", with {limit / 1000:g} s of left context in both"
        differences = comparison.per_frame[:cap]
        measured = f"{max(differences):.1e}" if differences else "numbers of frames differ"
        return [
            Check(f"streamed equals offline, {name}", f"at most {tolerance:.0e}{context}", measured, comparison.equal)
        ]

    return probe
