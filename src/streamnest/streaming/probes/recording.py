"""A recording: its stream equals the offline output, however long it is."""

from __future__ import annotations

import random
from pathlib import Path

from streamnest.encoder_task import EncoderTask
from streamnest.streaming.audio_sources import load_audio
from streamnest.streaming.comparison import compare_streaming_vs_offline
from streamnest.streaming.probes.check import TOLERANCES, Check

# Range of the random seconds of audio that are pushed at a time.
_SHORTEST, _LONGEST = 0.05, 5.0


def recording(model: EncoderTask, path: Path, seed: int) -> Check:
    """Compares the stream of a file with the offline output, as `compare_streaming_vs_offline` does.

    Raises:
        UserError: if the file cannot be read, or the model cannot stream.
    """
    audio, pieces = load_audio(path, model.sample_rate), random.Random(seed).uniform(_SHORTEST, _LONGEST)
    comparison = compare_streaming_vs_offline(model, audio, pieces, TOLERANCES["float32"])
    limit, differences = comparison.max_left_ms, comparison.per_frame[: comparison.cap_frames]
    context = "" if limit is None else f", with {limit / 1000:g} s of left context in both"
    measured = f"{max(differences):.1e}" if differences else "numbers of frames differ"
    declared = f"at most {comparison.tolerance:.0e}{context}"
    return Check(f"streamed equals offline, {path.name}", declared, measured, comparison.equal)
