from __future__ import annotations

import logging
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamnest.data.sampling.samplers import BucketBatchSampler, OnePassSampler
from streamnest.errors import UserError

DURATIONS = np.random.default_rng(0).gamma(4, 1.5, 317).clip(0.5, 16)


def sampler(world_size=1, rank=0, seed=0, durations=DURATIONS, batch_duration=40.0, max_batch_size=12, steps=10**6):
    return BucketBatchSampler(durations, batch_duration, max_batch_size, 5, steps, seed, rank, world_size)


def corpora():
    lengths = st.lists(st.floats(0.1, 20.0), min_size=1, max_size=80)
    return lengths.map(np.array)


@given(corpora(), st.integers(1, 5), st.integers(1, 8), st.floats(1.0, 60.0))
def test_every_epoch_covers_every_utterance_once_within_the_limits(durations, group, max_batch_size, batch_duration):
    one = BucketBatchSampler(durations, batch_duration, max_batch_size, 4, 10**6, 0, 0, group)
    for epoch in range(2):
        first = epoch * len(one.buckets)
        batches = [one.batch(number) for number in range(first, first + len(one.buckets))]
        assert sorted(i for batch in batches for i in batch) == list(range(len(durations)))
        assert all(1 <= len(batch) <= max_batch_size for batch in batches)
        assert all(len(b) == 1 or durations[b].max() * len(b) <= batch_duration + 1e-9 for b in batches)


def test_epochs_and_seeds_differ_reproducibly():
    stream = list(islice(sampler(), 3 * len(sampler().buckets)))
    assert stream == list(islice(sampler(), len(stream)))
    size = len(sampler().buckets)
    epochs = [{tuple(b.indices) for b in stream[i * size : (i + 1) * size]} for i in range(3)]
    assert max(len(epochs[0] & epochs[1]), len(epochs[1] & epochs[2])) < size / 10
    assert stream != list(islice(sampler(seed=1), len(stream)))


def test_batches_hold_similar_durations_in_mixed_order():
    one = sampler()
    batches = [DURATIONS[one.batch(i)] for i in range(len(one.buckets))]
    padded = sum(len(b) * b.max() for b in batches)
    assert DURATIONS.sum() / padded > 0.8
    longest = [b.max() for b in batches]
    assert longest != sorted(longest) and len({len(b) for b in batches}) > 1


@given(st.integers(0, 200))
def test_a_resume_at_any_step_equals_the_uninterrupted_run(step):
    whole, before = iter(sampler()), sampler()
    head = list(islice(iter(before), step))
    after = sampler()
    after.load_state_dict(before.state_dict())
    assert head + list(islice(iter(after), 20)) == list(islice(whole, step + 20))


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_partition_each_epoch_and_step_together_through_one_bucket(world_size):
    ranks = [sampler(world_size, rank) for rank in range(world_size)]
    steps = len(ranks[0].buckets) // world_size
    rows = list(zip(*(list(islice(r, steps)) for r in ranks)))
    assert [{b.step for b in row} for row in rows] == [{i} for i in range(steps)]
    indices = [i for row in rows for b in row for i in b.indices]
    assert sorted(indices) == list(range(len(DURATIONS)))
    spread = [
        max(DURATIONS[b.indices].max() for b in row) / min(DURATIONS[b.indices].max() for b in row) for row in rows
    ]
    assert np.median(spread) < 1.3


def test_two_processes_equal_one_with_double_batch_size():
    limits = {"batch_duration": 1e9}
    ranks = [sampler(2, rank, max_batch_size=4, **limits) for rank in (0, 1)]
    one = sampler(max_batch_size=8, **limits)
    for both, single in islice(zip(zip(*ranks), one), 60):
        assert both[0].indices + both[1].indices == single.indices


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (4, 2)])
def test_a_changed_world_size_loses_and_repeats_nothing(before, after):
    old = [sampler(before, rank) for rank in range(before)]
    indices = [i for s in old for b in islice(iter(s), 7) for i in b.indices]
    new = [sampler(after, rank) for rank in range(after)]
    for s in new:
        s.load_state_dict(old[0].state_dict())
    left = len(new[0].buckets) - 7 * before
    streams = [iter(s) for s in new]
    rows = [next(streams[i % after]) for i in range(left)]
    assert rows[0].step == 7
    assert sorted(indices + [i for b in rows for i in b.indices]) == list(range(len(DURATIONS)))


def test_a_changed_corpus_is_reported_on_resume(caplog):
    other = sampler(durations=DURATIONS[:100])
    with caplog.at_level(logging.WARNING):
        other.load_state_dict(sampler().state_dict())
    assert "the data or the limits of batches have changed" in caplog.text


def test_a_sampler_has_its_declared_length():
    assert len(list(sampler(steps=9))) == len(sampler(steps=9)) == 9
    assert len(sampler(steps=None)) == len(sampler().buckets)


def test_no_utterances_and_impossible_limits_are_refused():
    for wrong in ({"durations": np.array([])}, {"batch_duration": 0.0}, {"max_batch_size": 0}):
        with pytest.raises(UserError, match=r"no utterances|must be positive"):
            sampler(**wrong)


@given(corpora(), st.integers(1, 5))
def test_validation_has_equal_batch_counts_on_all_ranks(durations, world_size):
    ranks = [list(OnePassSampler(durations, 40.0, 8, rank, world_size)) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {len(OnePassSampler(durations, 40.0, 8, 0, world_size))}
    assert sorted(i for batches in ranks for b in batches for i in b.indices) == list(range(len(durations)))
    assert {b.step for batches in ranks for b in batches} == {0}


def test_a_million_utterances_take_seconds():
    durations = np.random.default_rng(0).gamma(4, 2, 10**6)
    one = BucketBatchSampler(durations, 600, 64, 30, 10**6, world_size=8)
    one.load_state_dict({"step": 10**5, "batch": 8 * 10**5, "group": 8, "epoch": len(one.buckets)})
    assert next(iter(one)).step == 10**5


@pytest.mark.parametrize("invalid", [{"step": -1}, {"batch": "x"}, {"group": 0}, {"group": 10**12}, {"step": None}])
def test_an_invalid_position_is_refused(invalid):
    one = sampler()
    with pytest.raises(UserError, match=f"position in the data is not valid in the checkpoint: {next(iter(invalid))}="):
        one.load_state_dict({**one.state_dict(), **invalid})
