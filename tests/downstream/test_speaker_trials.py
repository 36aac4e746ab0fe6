from __future__ import annotations

import numpy as np
import pytest

from streamnest.downstream.metrics.verification import bootstrap_speakers, equal_error_rate, sample_trials


def test_separating_scores_have_no_errors_and_constant_ones_half():
    same = np.array([True] * 50 + [False] * 150)
    assert equal_error_rate(np.where(same, 0.9, 0.1), same) == 0.0
    assert equal_error_rate(np.zeros(200), same) == 0.5
    assert equal_error_rate(np.where(same, 0.1, 0.9), same) == 1.0
    noise = np.random.default_rng(0).standard_normal(4000)
    assert equal_error_rate(noise, np.arange(4000) % 2 == 0) == pytest.approx(0.5, abs=0.03)
    assert np.isnan(equal_error_rate(noise[:3], np.ones(3, bool)))


def test_the_equal_error_rate_is_that_of_the_roc_curve():
    from sklearn.metrics import roc_curve

    rng = np.random.default_rng(1)
    same = rng.random(3000) < 0.3
    scores = np.round(rng.standard_normal(3000) + 1.5 * same, 2)
    false, right, _ = roc_curve(same, scores, drop_intermediate=False)
    nearest = np.argmin(np.abs(false - (1 - right)))
    assert equal_error_rate(scores, same) == pytest.approx((false + 1 - right)[nearest] / 2, abs=5e-3)


def test_trials_do_not_depend_on_the_order_of_utterances():
    ids = [f"u{number}" for number in range(40)]
    speakers = [f"s{number % 4}" for number in range(40)]
    pairs = sample_trials(ids, speakers, 100)
    named = {frozenset((ids[a], ids[b])) for a, b in pairs}
    assert len(pairs) == len(named) == 100
    assert sum(speakers[a] == speakers[b] for a, b in pairs) == 50
    back = sample_trials(ids[::-1], speakers[::-1], 100)
    assert {frozenset((ids[::-1][a], ids[::-1][b])) for a, b in back} == named
    assert len(sample_trials(ids[:1], speakers[:1])) == 0


def test_a_pair_of_weight_two_is_a_pair_twice():
    rng = np.random.default_rng(2)
    same, weights = np.arange(300) % 3 == 0, rng.integers(0, 4, 300)
    scores = rng.standard_normal(300) + same
    repeated = equal_error_rate(scores.repeat(weights), same.repeat(weights))
    assert equal_error_rate(scores, same, weights.astype(float)) == pytest.approx(repeated)
    assert np.isnan(equal_error_rate(scores, same, same.astype(float)))


def trials(utterances: int, speakers: int, seed: int):
    """Scores and speakers of all pairs: each speaker is more or less easy to tell from others."""
    rng = np.random.default_rng(seed)
    names = np.arange(utterances) % speakers
    pairs = np.stack(np.triu_indices(utterances, 1), 1)
    ease = rng.standard_normal(speakers)
    of = names[pairs]
    scores = rng.standard_normal(len(pairs)) + (of[:, 0] == of[:, 1]) * (2 + ease[of[:, 0]])
    return scores, of


def test_more_speakers_and_not_more_trials_make_the_interval_narrow():
    widths = {}
    for utterances, speakers in ((40, 5), (120, 5), (120, 40)):
        found = []
        for seed in range(4):
            scores, of = trials(utterances, speakers, seed)
            low, high = bootstrap_speakers(scores, of, 100)
            assert low <= equal_error_rate(scores, of[:, 0] == of[:, 1]) <= high
            found.append(high - low)
        widths[utterances, speakers] = np.mean(found)
    assert widths[120, 40] < 0.6 * widths[120, 5]
    assert widths[120, 5] > 0.7 * widths[40, 5]


def test_the_interval_ignores_numbers_of_speakers_and_order_of_pairs():
    scores, of = trials(40, 8, 1)
    assert bootstrap_speakers(scores, of, 50) == bootstrap_speakers(scores, of[:, ::-1], 50)
    assert bootstrap_speakers(scores, of, 50) == bootstrap_speakers(scores, 10 * of + 3, 50)
    assert bootstrap_speakers(scores, of, 50) != bootstrap_speakers(scores, of, 50, seed=1)


def test_an_interval_needs_both_kinds_of_trials():
    scores, of = trials(12, 1, 0)
    assert np.isnan(bootstrap_speakers(scores, of, 20)).all()
