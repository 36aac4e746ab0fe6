"""Word and character error rates, by seen and unseen speakers, with confidence intervals."""

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
    """Reference and hypothesis of one utterance.

    Attributes:
        id: id of the cut.
        reference: normalized transcript; an empty one is not scored.
        hypothesis: recognized text.
        seen: True if the speaker is in the training set, None if the speaker is unknown.
    """

    id: str
    reference: str
    hypothesis: str
    seen: bool | None = True


def errors(utterances: Sequence[RecognizedUtterance], unit: str) -> NDArray[np.float64]:
    """Counts errors (insertions, deletions, substitutions) and reference units of each utterance: `(N, 2)`.

    Args:
        utterances: utterances; one with an empty reference has no errors and no units.
        unit: "wer" for words, "cer" for characters; consecutive spaces are one character.
    """
    rows = []
    for utterance in utterances:
        words = utterance.reference.split(), utterance.hypothesis.split()
        reference, hypothesis = words if unit == "wer" else (" ".join(words[0]), " ".join(words[1]))
        rows.append((edit_distance(reference, hypothesis), len(reference)) if reference else (0, 0))
    return np.array(rows, np.float64).reshape(-1, 2)


def rate(counts: NDArray[np.float64]) -> float:
    """Returns errors over units; NaN if there are no units."""
    wrong, units = counts.sum(0)
    return float(wrong / units) if units else float("nan")


def bootstrap(
    counts: NDArray[np.float64], samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Returns a percentile bootstrap interval of the rate (Bisani and Ney 2004).

    Args:
        counts: `(N, 2)` errors and units of each utterance; samples without any unit are ignored.
        samples: number of bootstrap samples of N utterances.
        seed: seed of the sampling.
        level: confidence level.
    """
    if not counts[:, 1].any():
        return float("nan"), float("nan")
    weights = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), samples)
    wrong, units = (weights @ counts).T
    some = units > 0
    low, high = np.quantile(wrong[some] / units[some], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarize(utterances: Sequence[RecognizedUtterance]) -> dict[str, float]:
    """Returns both rates, their intervals (`_low`, `_high`), and the rates of `_seen` and `_unseen` speakers."""
    figures: dict[str, float] = {}
    seen, unseen = (np.array([one.seen is group for one in utterances], bool) for group in (True, False))
    for unit in UNITS:
        counts = errors(utterances, unit)
        low, high = bootstrap(counts[counts[:, 1] > 0])
        figures |= {unit: rate(counts), f"{unit}_low": low, f"{unit}_high": high}
        figures |= {f"{unit}_seen": rate(counts[seen]), f"{unit}_unseen": rate(counts[unseen])}
    return {name: value for name, value in figures.items() if not np.isnan(value)}


def rows_of_rates(first: Mapping[str, float], last: Mapping[str, float]) -> list[tuple[str, str]]:
    """Returns name and text of each rate, from the `val/...` metrics of the first and the last validation."""
    rows = []
    for unit, name in (("cer", "character error rate"), ("wer", "word error rate")):
        if f"val/{unit}" in last:
            now = {key: last.get(f"val/{unit}{key}") for key in ("_low", "_high", "_seen", "_unseen")}
            text = f"{change(first, last, f'val/{unit}')} (95% interval {now['_low']:.1%} to {now['_high']:.1%})"
            groups = [f"{now[key]:.1%} for {key[1:]} speakers" for key in ("_seen", "_unseen") if now[key] is not None]
            rows.append((name, ", ".join([text, *groups])))
    return rows
