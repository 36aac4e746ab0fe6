from __future__ import annotations

import logging
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
from corpus import data_module, make_cut, tone, write_manifest
from hypothesis import given
from hypothesis import strategies as st

from streamnest.build import build_data
from streamnest.data.manifest import load_cuts
from streamnest.data.sampling.mixing import Mixture, make_mixture
from streamnest.data.sampling.samplers import BucketBatchSampler
from streamnest.data.sampling.sources import Source, parse_sources
from streamnest.data.shards.plan import make_plan
from streamnest.data.shards.writing import write_shards
from streamnest.errors import UserError

SIZES = [400, 90, 30]
DURATIONS = np.random.default_rng(0).gamma(4, 1.5, sum(SIZES)).clip(0.5, 16)
SOURCE = np.repeat([0, 1, 2], SIZES)


def sampler(shares=(1, 2, 1), world_size=1, rank=0, seed=0, steps=10**6):
    mixture = Mixture(DURATIONS, SIZES, shares)
    return BucketBatchSampler(DURATIONS, 40.0, 12, 5, steps, seed, rank, world_size, mixture=mixture)


def epoch(one, number):
    first = number * len(one.buckets)
    return [i for batch in range(first, first + len(one.buckets)) for i in one.batch(batch)]


@pytest.mark.parametrize("shares", [(1, 2, 1), (8, 1, 1), (1, 1, 1), (1, 1, 98)])
def test_sources_have_their_shares_in_an_unchanged_epoch(shares):
    one = sampler(shares)
    indices = np.array([i for number in range(8) for i in epoch(one, number)])
    seconds = np.bincount(SOURCE[indices], DURATIONS[indices])
    np.testing.assert_allclose(seconds / seconds.sum(), np.array(shares) / sum(shares), atol=0.01)
    assert seconds.sum() / 8 == pytest.approx(DURATIONS.sum(), rel=0.02)


def test_utterances_of_a_source_occur_equally_often():
    one = sampler((1, 2, 1))
    for number in range(3):
        counts = Counter(epoch(one, number))
        for source in range(3):
            of_source = [counts[i] for i in np.flatnonzero(source == SOURCE).tolist()]
            assert max(of_source) - min(of_source) <= 1


def test_a_rare_source_is_covered_over_the_epochs():
    one = sampler((1, 6, 3))
    counts = Counter(i for number in range(30) for i in epoch(one, number))
    rare = np.array([counts[i] for i in range(SIZES[0])])
    assert rare.min() > 0 and rare.max() <= 1.5 * rare.mean() and rare.mean() < 30 / 5


def test_batches_mix_sources_within_their_limits():
    one = sampler()
    batches = [one.batch(i) for i in range(3 * len(one.buckets))]
    assert all(len(b) == 1 or DURATIONS[b].max() * len(b) <= 40.0 for b in batches)
    assert np.mean([len(set(SOURCE[b])) > 1 for b in batches]) > 0.75
    assert DURATIONS[np.concatenate(batches)].sum() / sum(len(b) * DURATIONS[b].max() for b in batches) > 0.75


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 9), st.integers(0, 2**20))
def test_natural_shares_cover_every_utterance_once(sizes, number, seed):
    durations = np.random.default_rng(seed).uniform(0.5, 16, sum(sizes))
    mixture = make_mixture(durations, sizes, ["x"] * len(sizes), [None] * len(sizes), temperature=1)
    slots = mixture.slots(durations, sizes)
    assert sorted(slots.utterances(seed, number)) == list(range(len(durations)))
    assert sorted(slots.durations) == sorted(durations)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0.01, 100)), min_size=1, max_size=4),
    st.integers(0, 1000),
    st.integers(0, 2**20),
)
def test_slots_bound_the_duration_of_their_utterances(sources, number, seed):
    sizes = [size for size, _ in sources]
    durations = np.random.default_rng(seed).uniform(0.5, 16, sum(sizes))
    slots = Mixture(durations, sizes, [share for _, share in sources]).slots(durations, sizes)
    filled = slots.utterances(seed, number)
    assert (durations[filled] <= slots.durations).all()
    assert (np.repeat(np.arange(len(sizes)), sizes)[filled] == np.repeat(np.arange(len(sizes)), slots.numbers)).all()


def test_a_late_resume_of_a_mixture_is_exact():
    whole, before, after = iter(sampler()), sampler(), sampler()
    head = list(islice(iter(before), 333))
    after.load_state_dict(before.state_dict())
    assert head + list(islice(iter(after), 200)) == list(islice(whole, 533))
    after.load_state_dict({**before.state_dict(), "step": 10**5, "batch": 10**5})
    assert next(iter(after)).step == 10**5


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_a_changed_world_size_keeps_the_mixture(before, after):
    alone, old = sampler(world_size=before), [sampler(world_size=before, rank=rank) for rank in range(before)]
    indices = [i for s in old for b in islice(iter(s), 7) for i in b.indices]
    new = [sampler(world_size=after, rank=rank) for rank in range(after)]
    for s in new:
        s.load_state_dict(old[0].state_dict())
    streams = [iter(s) for s in new]
    indices += [i for k in range(len(alone.buckets) - 7 * before) for i in next(streams[k % after]).indices]
    assert sorted(indices) == sorted(epoch(alone, 0))


def test_a_temperature_flattens_hours():
    seconds = np.bincount(SOURCE, DURATIONS)
    mixture = make_mixture(DURATIONS, SIZES, "abc", [None] * 3, temperature=3)
    shares = np.cbrt(seconds) / np.cbrt(seconds).sum()
    slots = shares * seconds.sum() / seconds * SIZES
    np.testing.assert_allclose(mixture.slots(DURATIONS, SIZES).numbers, slots, atol=0.5)


@pytest.mark.parametrize(
    ("weights", "temperature", "message"),
    [([1, None, 1], None, "source b has no weight"), ([1, 1, 1], 2.0, "choose one"), ([None] * 3, 0.0, "above 0")],
)
def test_ambiguous_shares_are_refused(weights, temperature, message):
    with pytest.raises(UserError, match=message):
        make_mixture(DURATIONS, SIZES, "abc", weights, temperature)


def test_no_weights_and_temperature_mean_no_mixture():
    assert make_mixture(DURATIONS, SIZES, "abc", [None] * 3, None) is None


def test_sources_are_named_in_several_ways():
    assert parse_sources(None) == [] and parse_sources("a") == [Source("a", "a")]
    assert parse_sources(["a", {"b": "c"}]) == [Source("a", "a"), Source("b", "c")]
    assert parse_sources({"en": {"path": "a", "weight": 2}, "de": "b"}) == [Source("en", "a", 2), Source("de", "b")]


@pytest.mark.parametrize("wrong", [3, {"en": 3}, {"en": {"weight": 1}}, {"en": {"path": "a", "wieght": 1}}])
def test_invalid_sources_are_refused(wrong):
    with pytest.raises(UserError, match="name a path"):
        parse_sources(wrong)


@pytest.mark.parametrize("weight", [0, -1, "two", float("inf"), float("nan")])
def test_weights_must_be_positive_numbers(weight):
    with pytest.raises(UserError, match=r"source en: weight=.*above 0"):
        parse_sources({"en": {"path": "a", "weight": weight}})


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Ten cuts as files, and four as shards."""
    folder = tmp_path_factory.mktemp("mixed")
    files = write_manifest(folder / "a.jsonl", [make_cut(folder, f"a{i}", tone(1 + i / 10, i)) for i in range(10)])
    other = write_manifest(folder / "b.jsonl", [make_cut(folder, f"b{i}", tone(1 + i / 10, 50 + i)) for i in range(4)])
    cuts, _ = load_cuts(other)
    write_shards(cuts, str(folder / "b"), make_plan(cuts, "flac", 3))
    return {"en": {"path": str(files), "weight": 1}, "de": {"path": str(folder / "b"), "weight": 1}}


def module(sources, **changes):
    options = {"batch_duration": 6.0, "num_buckets": 2, "num_batches": 16, **changes}
    data = data_module(sources, **options)
    data.setup("fit")
    return data


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rank", [0, 1])
def test_weighted_sources_resume_exactly_on_two_processes(sources, workers, rank):
    whole = [batch.ids for batch in loader_of(sources, rank)]
    # A run stores the state of its first process.
    first = loader_of(sources, 0, num_workers=workers)
    stream = iter(first)
    for _ in range(7):
        next(stream)
    restored = loader_of(sources, rank, num_workers=workers)
    restored.load_state_dict(first.state_dict())
    assert [batch.ids for batch in restored] == whole[7:]


def test_weighted_sources_have_their_shares(sources, caplog):
    with caplog.at_level(logging.INFO):
        whole = [batch.ids for batch in module(sources).train_dataloader()]
    assert "source de: 50.0 % of the audio, 2 times an epoch" in caplog.text
    counts = Counter(name[0] for ids in whole for name in ids)
    assert counts["b"] > 0.9 * counts["a"]


def loader_of(sources, rank, **changes):
    data = module(sources, **changes)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
    return data.train_dataloader()


def test_validation_uses_each_utterance_once_despite_weights(sources):
    data = module(sources, val_manifest=sources)
    ids = sorted(name for batch in data.val_dataloader() for name in batch.ids)
    assert ids == sorted([f"a{i}" for i in range(10)] + [f"b{i}" for i in range(4)])


def test_sources_and_weights_are_config(run_config, sources):
    paths = [sources[name]["path"] for name in ("en", "de")]
    text = f"{{en: {{path: '{paths[0]}', weight: 1}}, de: {{path: '{paths[1]}', weight: 3}}}}"
    cfg = run_config("data=shar", f"data.train_manifest={text}", "data.val_manifest=null")
    data = build_data(cfg)
    data.setup("fit")
    assert data.sources["train"][1] == Source("de", paths[1], 3) and data._mixture.rates[1] > data._mixture.rates[0]
