"""Inspection of cut manifests: amounts, durations, levels, broken files, and the padding of batches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from lhotse.cut import Cut
from numpy.typing import NDArray

from streamnest.data.audio import BadAudioError, load_mono, source_name
from streamnest.data.manifest import LoadReport, load_cuts
from streamnest.data.sampling.buckets import Buckets
from streamnest.errors import UserError

Floats = NDArray[np.float64]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_FLOOR_DB = -100.0


@dataclass(frozen=True)
class BatchFill:
    """Sizes and padding of the batches of one epoch.

    Attributes:
        batches: number of batches.
        utterances: mean number of utterances in a batch.
        padding: share of padding in the audio of all batches.
        used: mean padded seconds of a batch, relative to the maximum.
        longest: `(batches,)` seconds of the longest utterance of each batch, sorted.
        shares: `(batches,)` share of padding of each batch.
    """

    batches: int
    utterances: float
    padding: float
    used: float
    longest: Floats
    shares: Floats


@dataclass
class Inspection:
    """Statistics of manifests.

    Attributes:
        report: report of reading the manifests.
        durations: `(N,)` seconds of the cuts.
        speakers: seconds of each speaker; cuts without a speaker have no entry.
        levels: `(n,)` level in dB of full scale of the decoded cuts.
        sampled: number of cuts to decode, broken ones included.
        broken: files that could not be decoded, with the cause.
        fill: sizes and padding of batches.
    """

    report: LoadReport
    durations: Floats
    speakers: Counter[str] = field(default_factory=Counter)
    levels: Floats = field(default_factory=lambda: np.zeros(0))
    sampled: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    fill: BatchFill | None = None


def inspect(
    manifests: Sequence[str | Path],
    *,
    sample: int = 200,
    batch_duration: float = 240.0,
    num_buckets: int = 30,
    max_batch_size: int = 64,
    max_duration: float = 30.0,
    seed: int = 0,
    allow_commands: bool = False,
) -> Inspection:
    """Reads whole manifests and decodes a random sample of their cuts.

    Args:
        manifests: cut manifests that together make one training set.
        sample: number of cuts to decode.
        batch_duration: maximum padded seconds in a batch.
        num_buckets: number of buckets of similar duration.
        max_batch_size: maximum number of utterances in a batch.
        max_duration: seconds; longer cuts are split as in training.
        seed: seed of the sample.
        allow_commands: allow audio that is the output of a shell command.

    Raises:
        UserError: in the cases of `load_cuts`.
    """
    cuts: list[Cut] = []
    report = LoadReport()
    for path in manifests:
        # A manifest with many bad lines can be inspected too.
        loaded, part = load_cuts(path, max_duration=max_duration, max_bad_share=1.0, allow_commands=allow_commands)
        cuts, report = cuts + loaded, report + part
    if sample < 0:
        raise UserError(f"sample={sample}: need 0 or more")
    durations = np.array([cut.duration for cut in cuts])
    result = Inspection(
        report, durations, _speakers(cuts), fill=fill(durations, batch_duration, max_batch_size, num_buckets)
    )
    chosen = np.random.default_rng(seed).permutation(len(cuts))[:sample].tolist()
    result.sampled = len(chosen)
    levels = []
    for index in chosen:
        try:
            levels.append(level_db(load_mono(cuts[index])))
        except BadAudioError as error:
            result.broken.append((source_name(cuts[index]), str(error)))
    result.levels = np.array(levels)
    return result


def level_db(audio: NDArray[np.float32]) -> float:
    """Computes the RMS level of `(N,)` in dB of full scale, at least -100."""
    return 10 * math.log10(max(float(np.square(audio, dtype=np.float64).mean()), 10 ** (_FLOOR_DB / 10)))


def fill(durations: Floats, batch_duration: float, max_batch_size: int, num_buckets: int) -> BatchFill:
    """Computes sizes and padding of the batches that `Buckets` makes of durations `(N,)`, shuffled as in training.

    Raises:
        UserError: if there are no durations or a limit is not positive.
    """
    order, starts, sizes = Buckets(durations, batch_duration, max_batch_size, num_buckets).arrange(
        np.random.default_rng(0)
    )
    position = np.argsort(starts)
    ordered, edges, sizes = durations[order], starts[position], sizes[position]
    longest, speech = np.maximum.reduceat(ordered, edges), np.add.reduceat(ordered, edges)
    padded = longest * sizes
    rank = np.argsort(longest, kind="stable")
    return BatchFill(
        batches=len(sizes),
        utterances=float(sizes.mean()),
        padding=float(1 - speech.sum() / padded.sum()),
        used=float(padded.mean() / batch_duration),
        longest=longest[rank],
        shares=(1 - speech / padded)[rank],
    )


def _speakers(cuts: Sequence[Cut]) -> Counter[str]:
    seconds: Counter[str] = Counter()
    for cut in cuts:
        for name in {part.speaker for part in cut.supervisions if part.speaker}:
            seconds[name] += cut.duration
    return seconds
