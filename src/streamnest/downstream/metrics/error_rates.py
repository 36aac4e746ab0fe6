"""Word and character error rates, by known and unknown speakers, with intervals over utterances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torchaudio.functional import edit_distance

from streamnest.formatting import change

UNITS = ("wer", "cer")


@dataclass(frozen=True)
class RecognizedUtterance:
    """What was said and what was recognised.

    Attributes:
        id: of the cut.
        reference: normalised text; empty ones cannot be scored.
        hypothesis: recognised text.
        seen: whether the speaker was heard in training; None where nobody knows who speaks.
    """

    id: str
    reference: str
    hypothesis: str
    seen: bool | None = True


def errors(utterances: Sequence[RecognizedUtterance], unit: str) -> NDArray[np.float64]:
    """Insertions, deletions and substitutions, and units of the reference, of each utterance: `(N, 2)`.

    Args:
        utterances: those with an empty reference count for nothing.
        unit: "wer" counts words, "cer" characters; spaces are characters, several are one.
    """
    rows = []
    for utterance in utterances:
        words = utterance.reference.split(), utterance.hypothesis.split()
        reference, hypothesis = words if unit == "wer" else (" ".join(words[0]), " ".join(words[1]))
        rows.append((edit_distance(reference, hypothesis), len(reference)) if reference else (0, 0))
    return np.array(rows, np.float64).reshape(-1, 2)


def rate(counts: NDArray[np.float64]) -> float:
    """Errors over units, not a number without any."""
    wrong, units = counts.sum(0)
    return float(wrong / units) if units else float("nan")


def bootstrap(
    counts: NDArray[np.float64], samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """A percentile interval of the rate, over utterances drawn with replacement (Bisani and Ney 2004).

    Args:
        counts: `(N, 2)` of errors and units; draws without any unit are left out.
        samples: how often as many utterances are drawn.
        seed: of the draws.
        level: of confidence.
    """
    if not counts[:, 1].any():
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), samples)
    wrong, units = (drawn @ counts).T
    some = units > 0
    low, high = np.quantile(wrong[some] / units[some], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarize(utterances: Sequence[RecognizedUtterance]) -> dict[str, float]:
    """Both rates, their intervals (`_low`, `_high`), and by speakers (`_seen`, `_unseen`) where there are any."""
    figures: dict[str, float] = {}
    seen, unseen = (np.array([one.seen is group for one in utterances], bool) for group in (True, False))
    for unit in UNITS:
        counts = errors(utterances, unit)
        low, high = bootstrap(counts[counts[:, 1] > 0])
        figures |= {unit: rate(counts), f"{unit}_low": low, f"{unit}_high": high}
        figures |= {f"{unit}_seen": rate(counts[seen]), f"{unit}_unseen": rate(counts[unseen])}
    return {name: value for name, value in figures.items() if not np.isnan(value)}


def rows_of_rates(first: Mapping[str, float], last: Mapping[str, float]) -> list[tuple[str, str]]:
    """Name and words of each rate, from the `val/...` figures of the first and the last validation."""
    rows = []
    for unit, name in (("cer", "character errors"), ("wer", "word errors")):
        if f"val/{unit}" in last:
            now = {key: last.get(f"val/{unit}{key}") for key in ("_low", "_high", "_seen", "_unseen")}
            text = f"{change(first, last, f'val/{unit}')} ({now['_low']:.1%} to {now['_high']:.1%})"
            groups = [f"{now[key]:.1%} of {key[1:]} speakers" for key in ("_seen", "_unseen") if now[key] is not None]
            rows.append((name, ", ".join([text, *groups])))
    return rows
