from __future__ import annotations

import numpy as np
import pytest
from torchmetrics.functional.text import char_error_rate, word_error_rate

from streamnest.downstream.scoring import Utterance, bootstrap, errors, rate, summarise

PAIRS = [("the old ship", "the cold ship"), ("hello", ""), ("go on then", "go  on"), ("yes", "yes no"), ("no", "no")]
UTTERANCES = [Utterance(str(i), reference, said, seen=i < 3) for i, (reference, said) in enumerate(PAIRS)]


@pytest.mark.parametrize(("unit", "metric"), [("wer", word_error_rate), ("cer", char_error_rate)])
def test_rates_are_those_of_torchmetrics(unit, metric):
    said = [" ".join(text.split()) for _, text in PAIRS]
    assert rate(errors(UTTERANCES, unit)) == pytest.approx(float(metric(said, [reference for reference, _ in PAIRS])))


def test_nothing_recognised_is_all_deleted_and_nothing_said_does_not_count():
    counts = errors([Utterance("a", "go on", ""), Utterance("b", "", "noise")], "wer")
    assert counts.tolist() == [[2, 2], [0, 0]]
    assert np.isnan(rate(counts[1:]))


def test_known_and_unknown_speakers_are_scored_apart():
    found = summarise(UTTERANCES)
    assert found["wer_seen"] == pytest.approx(3 / 7) and found["wer_unseen"] == pytest.approx(1 / 2)
    assert "wer_unseen" not in summarise(UTTERANCES[:3])


def test_the_interval_contains_the_rate_repeats_and_narrows_with_utterances():
    generator = np.random.default_rng(3)
    counts = np.stack([generator.binomial(10, 0.3, 400), np.full(400, 10)], 1).astype(float)
    low, high = bootstrap(counts)
    assert low < rate(counts) < high and (low, high) == bootstrap(counts)
    few = bootstrap(counts[:25])
    assert few[1] - few[0] > 2 * (high - low)
    # The textbook interval of as many independent words.
    assert high - low == pytest.approx(2 * 1.96 * (0.3 * 0.7 / 4000) ** 0.5, rel=0.15)
