from __future__ import annotations

import numpy as np
import pytest
from torchmetrics.functional.text import char_error_rate, word_error_rate

from streamnest.data.conversations.simulation import Turn
from streamnest.downstream.metrics.diarization_error import Scored, Scorer
from streamnest.downstream.metrics.diarization_error import summarize as summarize_speakers
from streamnest.downstream.metrics.error_rates import (
    RecognizedUtterance,
    bootstrap,
    errors,
    rate,
    rows_of_rates,
    summarize,
)
from streamnest.downstream.metrics.trivial_diarization import ALWAYS, NOBODY, ORACLE, score_trivial, trivial_rates

PAIRS = [("the old ship", "the cold ship"), ("hello", ""), ("go on then", "go  on"), ("yes", "yes no"), ("no", "no")]
UTTERANCES = [
    RecognizedUtterance(str(i), reference, hypothesis, seen=i < 3) for i, (reference, hypothesis) in enumerate(PAIRS)
]


@pytest.mark.parametrize(("unit", "metric"), [("wer", word_error_rate), ("cer", char_error_rate)])
def test_rates_are_those_of_torchmetrics(unit, metric):
    said = [" ".join(text.split()) for _, text in PAIRS]
    assert rate(errors(UTTERANCES, unit)) == pytest.approx(float(metric(said, [reference for reference, _ in PAIRS])))


def test_an_empty_hypothesis_counts_and_an_empty_reference_does_not():
    counts = errors([RecognizedUtterance("a", "go on", ""), RecognizedUtterance("b", "", "noise")], "wer")
    assert counts.tolist() == [[2, 2], [0, 0]]
    assert np.isnan(rate(counts[1:]))


def test_known_and_unknown_speakers_are_scored_apart():
    found = summarize(UTTERANCES)
    assert found["wer_seen"] == pytest.approx(3 / 7) and found["wer_unseen"] == pytest.approx(1 / 2)
    assert "wer_unseen" not in summarize(UTTERANCES[:3])


def test_an_utterance_whose_speaker_nobody_knows_is_in_neither_group():
    found = summarize([*UTTERANCES, RecognizedUtterance("x", "lots of errors here", "none", seen=None)])
    known = summarize(UTTERANCES)
    assert found["wer"] > known["wer"]
    assert all(found[name] == known[name] for name in ("wer_seen", "wer_unseen", "cer_seen", "cer_unseen"))
    assert not any("seen" in name for name in summarize([RecognizedUtterance("x", "go", "go", seen=None)]))


def test_a_rate_of_the_last_validation_only_is_shown_alone():
    last = {f"val/{name}": value for name, value in summarize(UTTERANCES).items()}
    row = dict(rows_of_rates({}, last))["word error rate"]
    assert row.startswith("44.4% (") and row in dict(rows_of_rates({"val/wer": 0.5}, last))["word error rate"]
    assert dict(rows_of_rates({"val/wer": 0.5}, last))["word error rate"].startswith("50.0% -> 44.4% (")


def test_the_interval_includes_errors_without_reference_units():
    counts = np.array([(30.0, 0.0)] * 20 + [(1.0, 10.0)] * 20)
    low, high = bootstrap(counts)
    assert low < rate(counts) < high
    scored = [Scored(str(n), total, 0.0, errors, 0.0) for n, (errors, total) in enumerate(counts)]
    found = summarize_speakers(scored)
    assert (found["der_low"], found["der"], found["der_high"]) == (low, rate(counts), high)
    # Of two rows, a quarter of the draws are of the first alone.
    assert np.isfinite(bootstrap(counts[[0, -1]])).all() and np.isnan(bootstrap(counts[:1])).all()


def test_utterances_without_reference_do_not_change_the_interval():
    silent = [RecognizedUtterance(str(i), "", "noise") for i in range(5)]
    assert summarize([*UTTERANCES, *silent]) == summarize(UTTERANCES)
    low, high = bootstrap(errors(UTTERANCES, "cer"))
    assert (summarize(UTTERANCES)["cer_low"], summarize(UTTERANCES)["cer_high"]) == (low, high)


def test_the_interval_contains_the_rate_repeats_and_narrows_with_utterances():
    generator = np.random.default_rng(3)
    counts = np.stack([generator.binomial(10, 0.3, 400), np.full(400, 10)], 1).astype(float)
    low, high = bootstrap(counts)
    assert low < rate(counts) < high and (low, high) == bootstrap(counts)
    few = bootstrap(counts[:25])
    assert few[1] - few[0] > 2 * (high - low)
    # The textbook interval of as many independent words.
    assert high - low == pytest.approx(2 * 1.96 * (0.3 * 0.7 / 4000) ** 0.5, rel=0.15)


def test_diarization_without_a_model_has_the_errors_it_must_have():
    turns = [Turn("a", 0.0, 4.0), Turn("b", 4.0, 6.0)]  # 6 s of speech in 10 s
    rates = trivial_rates([score_trivial(Scorer(collar=0.0), "talk", turns, 10.0)])
    assert rates == pytest.approx({NOBODY: 1.0, ALWAYS: (2 + 4) / 6, ORACLE: 2 / 6})
    assert trivial_rates([]) == {} == trivial_rates([score_trivial(Scorer(), "silence", [], 10.0)])
