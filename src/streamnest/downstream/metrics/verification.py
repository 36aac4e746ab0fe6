"""Speaker verification: trials and equal error rate (EER)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamnest.config.tasks import SpeakerConfig
from streamnest.randomness import hash_id, numpy_generator

# Largest number of utterances; all pairs of them are in memory.
_MOST = 2000


def sample_trials(ids: Sequence[str], speakers: Sequence[str], most: int = SpeakerConfig.trials) -> NDArray[np.int64]:
    """Samples pairs of utterances: up to `most` / 2 of the same speaker and as many of different speakers.

    The pairs depend on ids and speakers only, not on the order of the arguments.

    Returns:
        `(P, 2)` indices into `ids`, pairs of the same speaker first.
    """
    order = sorted(range(len(ids)), key=lambda at: (hash_id(ids[at]), ids[at]))[:_MOST]
    number = {speaker: n for n, speaker in enumerate(sorted(set(speakers)))}
    names = np.array([number[speakers[at]] for at in order], np.int64)
    one, other = np.triu_indices(len(order), 1)
    same = names[one] == names[other]
    rng = numpy_generator(0, 0, "trials")
    chosen = []
    for kind in (same, ~same):
        pairs = np.flatnonzero(kind)
        chosen.append(rng.permutation(pairs)[: most // 2])
    picked = np.concatenate(chosen)
    places = np.array(order, np.int64)
    return np.stack([places[one[picked]], places[other[picked]]], 1) if len(picked) else np.zeros((0, 2), np.int64)


def equal_error_rate(
    scores: NDArray[np.float64], same: NDArray[np.bool_], weights: NDArray[np.float64] | None = None
) -> float:
    """Returns the equal error rate; NaN if one kind of pairs is missing.

    Between two thresholds the rates are interpolated linearly, so that constant scores give 0.5.

    Args:
        scores: `(P,)`, higher for the same speaker.
        same: `(P,)`, True for pairs of the same speaker.
        weights: `(P,)`, how often each pair counts; None counts each pair once.
    """
    of_same, of_others = (np.where(kind, 1.0 if weights is None else weights, 0.0) for kind in (same, ~same))
    if not of_same.any() or not of_others.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    missed, false = (
        np.concatenate([[0.0], np.cumsum(counts[order])[ends] / counts.sum()]) for counts in (of_same, of_others)
    )
    missed = 1 - missed
    at = int(np.argmax(false >= missed))
    gap = (missed - false)[[at - 1, at]]
    # The two rates are equal at a gap of zero.
    weight = gap[0] / (gap[0] - gap[1])
    return float(false[at - 1] + weight * (false[at] - false[at - 1]))


def bootstrap_speakers(
    scores: NDArray[np.float64], speakers: NDArray[np.int64], samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Returns a percentile bootstrap interval of the equal error rate over speakers.

    Pairs of one speaker depend on each other, so speakers are sampled and not pairs. A pair of two speakers counts as
    often as the product of their numbers in the sample. On the dependence of trials: Wu et al. 2017, "The impact of
    data dependence on speaker recognition evaluation".

    Args:
        scores: `(P,)`, higher for the same speaker.
        speakers: `(P, 2)` numbers of the speakers of each pair.
        samples: number of bootstrap samples; those without one of the kinds of pairs are ignored.
        seed: seed of the sampling.
        level: confidence level.
    """
    names, places = np.unique(speakers, return_inverse=True)
    one, other = places.reshape(speakers.shape).T
    same = one == other
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), samples)
    weights = np.where(same, drawn[:, one], drawn[:, one] * drawn[:, other]).astype(float)
    rates = np.array([equal_error_rate(scores, same, row) for row in weights])
    rates = rates[~np.isnan(rates)]
    if not len(rates):
        return float("nan"), float("nan")
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
