"""What cut manifests hold: how much, how long, how loud, what is broken, and how well it fills batches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from lhotse.cut import Cut
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from streamnest.console.terminal import caption
from streamnest.data.audio import BadAudioError, load_mono, source_name
from streamnest.data.manifest import LoadReport, load_cuts
from streamnest.data.sampling.buckets import Buckets
from streamnest.errors import UserError
from streamnest.plotting import HIDDEN, INK, RIGHT, plain_axes

Floats = NDArray[np.float64]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_FLOOR_DB = -100.0


@dataclass(frozen=True)
class Fill:
    """How one epoch falls into batches.

    Attributes:
        batches: in an epoch.
        utterances: in a batch, mean.
        padding: share of the batches' audio that is padding.
        used: mean padded seconds of a batch over the most that it may have.
        longest: `(batches,)` longest utterance of each, in seconds, from short to long.
        shares: `(batches,)` padding share of each.
    """

    batches: int
    utterances: float
    padding: float
    used: float
    longest: Floats
    shares: Floats


@dataclass
class Inspection:
    """What was found.

    Attributes:
        report: of reading the manifests.
        durations: `(N,)` seconds of the cuts.
        speakers: seconds of each speaker; of cuts without one there is no entry.
        levels: `(n,)` mean energy in dB of full scale of the cuts that were decoded.
        sampled: cuts that were to be decoded.
        broken: files that did not decode, with the cause.
        fill: of batches.
    """

    report: LoadReport
    durations: Floats
    speakers: Counter[str] = field(default_factory=Counter)
    levels: Floats = field(default_factory=lambda: np.zeros(0))
    sampled: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    fill: Fill | None = None


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
    """Reads manifests whole and decodes some of their cuts.

    Args:
        manifests: cut manifests; together they are what one run would train on.
        sample: cuts to decode, drawn at random; all of them where there are no more.
        batch_duration: as in the config group `data`, and so the three that follow.
        num_buckets: of similar duration.
        max_batch_size: most utterances in a batch.
        max_duration: longer cuts are split, as training does.
        seed: of the sample.
        allow_commands: see `load_cuts`.

    Raises:
        UserError: see `load_cuts`.
    """
    cuts: list[Cut] = []
    report = LoadReport()
    for path in manifests:
        # A manifest with many bad lines is what one inspects.
        loaded, found = load_cuts(path, max_duration=max_duration, max_bad_share=1.0, allow_commands=allow_commands)
        cuts, report = cuts + loaded, report + found
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
    """Mean energy of `(N,)` in dB of full scale, -100 at least."""
    return 10 * math.log10(max(float(np.square(audio, dtype=np.float64).mean()), 10 ** (_FLOOR_DB / 10)))


def fill(durations: Floats, batch_duration: float, max_batch_size: int, num_buckets: int) -> Fill:
    """How durations `(N,)` fill the batches that `Buckets` makes of them, shuffled as in training.

    Raises:
        UserError: for no durations or limits that admit none.
    """
    order, starts, sizes = Buckets(durations, batch_duration, max_batch_size, num_buckets).arrange(
        np.random.default_rng(0)
    )
    place = np.argsort(starts)
    ordered, edges, sizes = durations[order], starts[place], sizes[place]
    longest, speech = np.maximum.reduceat(ordered, edges), np.add.reduceat(ordered, edges)
    padded = longest * sizes
    rank = np.argsort(longest, kind="stable")
    return Fill(
        batches=len(sizes),
        utterances=float(sizes.mean()),
        padding=float(1 - speech.sum() / padded.sum()),
        used=float(padded.mean() / batch_duration),
        longest=longest[rank],
        shares=(1 - speech / padded)[rank],
    )


def draw_inspection(found: Inspection, title: str) -> Figure:
    """Durations by the time they make up, energies, hours of each speaker, and padding of batches."""
    figure = Figure(figsize=(11, 6.4), dpi=110, layout="constrained")
    figure.suptitle(caption(title), fontsize=12, color=INK, x=0.01, ha="left", weight="bold")
    (durations, levels), (speakers, padding) = figure.subplots(2, 2)
    hours = found.durations / 3600
    durations.hist(found.durations, bins=40, weights=hours, color=RIGHT)
    _name(durations, "duration (s)", "hours")
    if len(found.levels):
        levels.hist(found.levels, bins=30, color=HIDDEN)
    _name(levels, f"mean energy (dB of full scale), {len(found.levels)} cuts", "cuts")
    amounts = np.sort([seconds / 60 for seconds in found.speakers.values()])[::-1]
    speakers.step(np.arange(1, len(amounts) + 1), amounts, where="mid", color=INK)
    _name(speakers, f"speaker, of {len(amounts)}", "minutes")
    if found.fill:
        padding.plot(found.fill.longest, 100 * found.fill.shares, ".", color=INK, ms=4)
        padding.axhline(100 * found.fill.padding, color=HIDDEN, ls="--", label=f"all: {found.fill.padding:.1%}")
        padding.legend(frameon=False, fontsize=8)
    _name(padding, "longest utterance of a batch (s)", "padding (%)")
    return figure


def _name(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    plain_axes(axes)


def _speakers(cuts: Sequence[Cut]) -> Counter[str]:
    seconds: Counter[str] = Counter()
    for cut in cuts:
        for name in {said.speaker for said in cut.supervisions if said.speaker}:
            seconds[name] += cut.duration
    return seconds
