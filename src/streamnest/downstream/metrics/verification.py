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


def equal_error_rate(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """Returns the equal error rate; NaN if one kind of pairs is missing.

    Between two thresholds the rates are interpolated linearly, so that constant scores give 0.5.

    Args:
        scores: `(P,)`, higher for the same speaker.
        same: `(P,)`, True for pairs of the same speaker.
    """
    if same.all() or not same.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    accepted = np.cumsum(same[order])[ends], np.cumsum(~same[order])[ends]
    missed = np.concatenate([[1.0], 1 - accepted[0] / same.sum()])
    false = np.concatenate([[0.0], accepted[1] / (~same).sum()])
    at = int(np.argmax(false >= missed))
    gap = (missed - false)[[at - 1, at]]
    # The two rates are equal at a gap of zero.
    weight = gap[0] / (gap[0] - gap[1])
    return float(false[at - 1] + weight * (false[at] - false[at - 1]))
