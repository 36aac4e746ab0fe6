"""Corpora of several sections, and memory-mapped indices."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnest.data.sampling.mixing import Mixture
from streamnest.data.sampling.samplers import BucketBatchSampler
from streamnest.data.sampling.sections import Sections
from streamnest.data.sampling.sources import Corpus
from streamnest.data.shards import unpacking, windows
from streamnest.data.shards.index import FILE, ShardIndex, Texts, tar_name
from streamnest.data.shards.plan import PLAN
from streamnest.data.shards.reading import load_shards
from streamnest.data.shards.remote import RemoteStore
from streamnest.data.shards.store import open_store
from streamnest.errors import UserError

DURATIONS = np.random.default_rng(0).gamma(4, 1.5, 3000).clip(0.5, 16)
# Large enough for several pieces of each of the seven sections.
LARGEST = 450


def sampler(world_size=1, rank=0, seed=0, largest=LARGEST, mixture=None, shuffle=True):
    limits = (40.0, 12, 5, 10**6)
    return BucketBatchSampler(DURATIONS, *limits, seed, rank, world_size, shuffle, mixture, largest=largest)


def epoch(one, number):
    first = number * len(one.buckets)
    return [one.batch(place) for place in range(first, first + len(one.buckets))]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(10, 150), st.integers(1, 3), st.booleans())
def test_every_utterance_occurs_once_an_epoch_with_sections(count, largest, group, shuffle):
    one = BucketBatchSampler(DURATIONS[:count], 40.0, 12, 3, None, 1, 0, group, shuffle, largest=largest)
    for number in range(2):
        assert sorted(i for batch in epoch(one, number) for i in batch) == list(range(count))


def test_sections_follow_each_other_in_random_order():
    parts = Sections([len(DURATIONS)], 0, LARGEST)
    section = {i: n for n in range(len(parts)) for run in parts.spans(n)[0] for i in range(*run)}
    sequences = [[section[batch[0]] for batch in epoch(sampler(), number)] for number in range(2)]
    assert all({section[i] for i in batch} == {section[batch[0]]} for batch in epoch(sampler(), 0))
    orders = [[a for a, b in zip([None, *order], order) if a != b] + order[-1:] for order in sequences]
    assert [len(order) - 1 for order in orders] == [7, 7] and orders[0] != orders[1]
    assert epoch(sampler(), 0) != epoch(sampler(seed=1), 0)


def test_a_section_spans_the_corpus_and_all_sources():
    parts, extents = Sections([2500, 400, 100], 0, LARGEST), []
    for number in range(len(parts)):
        runs = parts.spans(number)
        sizes = [sum(stop - first for first, stop in of_source) for of_source in runs]
        assert sizes == pytest.approx([2500 / 7, 400 / 7, 100 / 7], abs=90) and min(sizes) > 0
        extents.append(runs[0][-1][1] - runs[0][0][0])
    # Contiguous sections would span 357 utterances.
    assert np.mean(extents) > 1000


@pytest.mark.parametrize("mixed", [False, True])
def test_a_resume_in_a_later_section_equals_the_uninterrupted_run(mixed):
    mixture = Mixture(DURATIONS, [2500, 400, 100], [1, 2, 1]) if mixed else None
    before, after = sampler(mixture=mixture), sampler(mixture=mixture)
    steps = len(before.buckets)
    head = list(islice(iter(before), steps + steps // 2))
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert head + list(islice(iter(after), 200)) == list(islice(iter(sampler(mixture=mixture)), len(head) + 200))


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_sections_and_step_together_through_one_bucket(world_size):
    ranks = [sampler(world_size, rank) for rank in range(world_size)]
    steps = len(ranks[0].buckets) // world_size
    assert len(ranks[0].buckets) % world_size == 0
    rows = list(zip(*(list(islice(rank, steps)) for rank in ranks)))
    assert sorted(i for row in rows for batch in row for i in batch.indices) == list(range(len(DURATIONS)))
    longest = [[DURATIONS[batch.indices].max() for batch in row] for row in rows]
    assert np.median([max(row) / min(row) for row in longest]) < 1.2


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_a_changed_world_size_loses_nothing_in_a_later_section(before, after):
    old = [sampler(before, rank) for rank in range(before)]
    done = len(old[0].buckets) // before // 2
    indices = [i for s in old for batch in islice(s, done) for i in batch.indices]
    new = [sampler(after, rank) for rank in range(after)]
    for s in new:
        s.load_state_dict(old[0].state_dict())
    streams = [iter(s) for s in new]
    rows = [next(streams[k % after]) for k in range(len(new[0].buckets) - done * before)]
    assert sorted(indices + [i for batch in rows for i in batch.indices]) == list(range(len(DURATIONS)))


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        ({}, "50267c9478964f6d"),
        ({"world_size": 4, "rank": 1}, "bb29d5c2e9287bbf"),
        ({"shuffle": False}, "81fed3c9cd3ebbeb"),
        ({"mixture": ([2000, 900, 100], [1, 2, 1])}, "c2084f20f2ee9e88"),
    ],
    ids=["plain", "four processes", "sorted", "mixture"],
)
def test_the_batches_of_one_section_are_unchanged(options, digest):
    if "mixture" in options:
        options = {"mixture": Mixture(DURATIONS, *options["mixture"])}
    one = sampler(seed=3, largest=len(DURATIONS), **options)
    batches = json.dumps([batch for number in range(2) for batch in epoch(one, number)])
    assert hashlib.blake2b(batches.encode(), digest_size=8).hexdigest() == digest


def test_a_mixture_over_sections_keeps_its_shares():
    sizes, shares = [2500, 400, 100], np.array([1, 2, 1])
    one, source = sampler(mixture=Mixture(DURATIONS, sizes, shares)), np.repeat([0, 1, 2], sizes)
    indices = np.array([i for number in range(12) for batch in epoch(one, number) for i in batch])
    seconds = np.bincount(source[indices], DURATIONS[indices])
    np.testing.assert_allclose(seconds / seconds.sum(), shares / 4, atol=0.02)
    counts = np.bincount(indices, minlength=3000)
    assert all(np.ptp(counts[source == s]) <= 12 for s in (1, 2)) and counts.min() > 0


def test_lengths_of_sources_are_read_across_boundaries():
    parts = [DURATIONS[:10], DURATIONS[10:11], DURATIONS[11:30]]
    corpus = Corpus([CutsWithDurations(part) for part in parts])
    for start, stop in ((0, 30), (0, 10), (9, 12), (10, 11), (15, 99), (12, 12)):
        assert corpus.lazy_durations[start:stop].tolist() == DURATIONS[:30][start:stop].tolist()
    assert len(corpus.lazy_durations) == 30 and Corpus([]).lazy_durations[0:9].tolist() == []


class CutsWithDurations(list):
    @property
    def durations(self):
        return np.array(self)


def make_index(folder, count=1500, compressed=False, seed=0):
    """Writes an index without audio, and empty archives."""
    rng = np.random.default_rng(seed)
    index = ShardIndex(
        ids=Texts.pack(f"cut-{i}" for i in range(count)),
        duration=rng.gamma(4, 1.5, count).clip(0.2, 20).round(3),
        speaker=rng.integers(-1, 5, count).astype(np.int32),
        shard=(np.arange(count) // 100).astype(np.int32),
        offset=rng.integers(0, 2**40, count),
        size=rng.integers(1, 10**5, count),
        speakers=Texts.pack(f"s{i}" for i in range(5)),
        texts=Texts.pack("" if i % 3 else f"wörd {i}" for i in range(count)),
        languages=Texts.pack(["de", ""][i % 2] for i in range(count)),
    )
    folder.mkdir(exist_ok=True)
    index.save(folder / FILE, compressed)
    plan = {"format": "flac", "shard_size": 100, "sampling_rate": 16000, "num_cuts": count, "digest": ""}
    (folder / PLAN).write_text(json.dumps(plan))
    for shard in range(-(-count // 100)):
        (folder / tar_name(shard)).touch()
    return index


def described(cuts):
    return [{**vars(cut), "store": None} for cut in cuts]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMNEST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("limits", [(0.1, 30.0), (2.0, 7.0)])
def test_memory_mapped_and_loaded_indices_give_the_same_cuts(tmp_path, monkeypatch, cache, limits):
    make_index(tmp_path / "x")
    options = {"min_duration": limits[0], "max_duration": limits[1]}
    mapped, one = load_shards(str(tmp_path / "x"), **options)
    assert mapped.table.path == tmp_path / "x" / FILE and not cache.exists()
    assert not mapped.table.duration.flags.owndata and not mapped.table.ids.data.flags.writeable
    monkeypatch.setattr("streamnest.data.shards.reading.plain_copy", lambda *_: None)
    held, two = load_shards(str(tmp_path / "x"), **options)
    assert held.table.path is None and one == two
    assert described(mapped) == described(held) and len(mapped) > 1000


@pytest.mark.parametrize("on_long", ["split", "skip"])
@pytest.mark.parametrize("longest", [7.0, 30.0])
def test_reading_an_index_in_blocks_changes_nothing(tmp_path, monkeypatch, on_long, longest):
    make_index(tmp_path / "x")
    for shard in (0, 7, 14):
        (tmp_path / "x" / tar_name(shard)).unlink()
    options = {"min_duration": 2.0, "max_duration": longest, "on_long": on_long, "max_bad_share": 0.2}
    monkeypatch.setattr(windows, "_STRETCH", 512)
    cuts, report = load_shards(str(tmp_path / "x"), **options)
    found, seconds = described(cuts), cuts.durations.tolist()
    for start, stop in ((0, 1), (255, 600), (1000, 1000), (700, 10**6)):
        assert cuts.lazy_durations[start:stop].tolist() == seconds[start:stop]
    monkeypatch.setattr(windows, "_BLOCK", 10**6)
    monkeypatch.setattr(windows, "_STRETCH", 10**6)
    whole, same = load_shards(str(tmp_path / "x"), **options)
    assert found == described(whole) and seconds == [cut.duration for cut in whole]
    assert report.counts == same.counts and report.counts["missing file"] == 300
    assert report.seconds == pytest.approx(same.seconds) and report.speakers == same.speakers


def test_a_compressed_index_is_unpacked_once(tmp_path, monkeypatch, cache):
    make_index(tmp_path / "old", compressed=True)
    make_index(tmp_path / "new")
    old, one = load_shards(str(tmp_path / "old"))
    new, two = load_shards(str(tmp_path / "new"))
    assert old.table.path.parent == cache and one == two and described(old) == described(new)
    monkeypatch.setattr(unpacking, "_unpack", lambda *_: pytest.fail("unpacked again"))
    load_shards(str(tmp_path / "old"))
    assert sorted(p.suffix for p in cache.iterdir()) == ["", ".npz"]


def test_a_remote_index_is_fetched_in_pieces(tmp_path, monkeypatch, cache):
    make_index(tmp_path / "x", compressed=True)
    local, _ = load_shards(str(tmp_path / "x"))
    (cache / local.table.path.name).unlink()
    store = open_store("memory://large")
    for path in list((tmp_path / "x").iterdir()):
        store.put(path.name, path)
    requests, read = [], RemoteStore.read
    monkeypatch.setattr(unpacking, "_PIECE", 5000)
    monkeypatch.setattr(RemoteStore, "read", lambda self, *args: requests.append(args) or read(self, *args))
    monkeypatch.setattr(RemoteStore, "load", _refuse(RemoteStore.load))
    remote, _ = load_shards("memory://large")
    assert described(remote) == described(local) and remote.table.path == local.table.path
    assert len(requests) > 5 and max(size for *_, size in requests) < 20_000


def _refuse(load):
    return lambda self, name: pytest.fail("fetched whole") if name == FILE else load(self, name)


def test_a_changed_index_is_unpacked_again(tmp_path, cache):
    make_index(tmp_path / "old", compressed=True)
    load_shards(str(tmp_path / "old"))
    index = make_index(tmp_path / "old", compressed=True, seed=1)
    assert load_shards(str(tmp_path / "old"), max_duration=30.0)[0].durations.tolist() == index.duration.tolist()
    assert len(list(cache.glob("*.npz"))) == 2


def test_an_index_is_kept_in_memory_without_a_cache(tmp_path, cache, caplog):
    make_index(tmp_path / "old", compressed=True)
    cache.write_text("no folder")
    cuts, _ = load_shards(str(tmp_path / "old"))
    assert cuts.table.path is None and "is kept in memory" in caplog.text and len(cuts) > 1000


@pytest.mark.parametrize("compressed", [True, False])
def test_a_damaged_index_is_a_user_error(tmp_path, cache, compressed):
    make_index(tmp_path / "x", compressed=compressed)
    data = bytearray((tmp_path / "x" / FILE).read_bytes())
    (tmp_path / "x" / FILE).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        load_shards(str(tmp_path / "x"))
    if compressed:
        data[500:600] = bytes(100)
        (tmp_path / "x" / FILE).write_bytes(data)
        with pytest.raises(UserError, match="cannot be read"):
            load_shards(str(tmp_path / "x"))
        assert not list(cache.glob("*.npz"))


def test_a_pickled_index_is_mapped_again(tmp_path, monkeypatch):
    make_index(tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    cuts, _ = load_shards("x")
    packed = pickle.dumps(cuts)
    monkeypatch.chdir("/")
    assert len(packed) < 5000 and described(pickle.loads(packed)) == described(cuts)


LOADER = """
import sys
from pathlib import Path
from streamnest.data import datamodule
from streamnest.data.config import DataConfig
from streamnest.data.sampling.samplers import BucketBatchSampler
from functools import partial
def private():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024
# Both corpora have several sections.
datamodule.BucketBatchSampler = partial(BucketBatchSampler, largest=2**15)
before = private()
# There is no audio behind the index.
config = DataConfig(
    train_manifest=sys.argv[1], batch_duration=240.0, max_duration=30.0, num_batches=10**6, max_skipped_share=1.0
)
data = datamodule.SpeechDataModule(config)
data.setup()
sampler = data.train_dataloader().sampler
for number in range(0, len(sampler.buckets), len(sampler.buckets) // 40):
    [data._cuts["train"][i] for i in sampler.batch(number)]
print(private() - before)
"""


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_million_cuts_take_the_memory_of_a_hundred_thousand(tmp_path):
    growth = []
    for count in (100_000, 1_000_000):
        index = plain_index(tmp_path / str(count), count)
        command = [sys.executable, "-c", LOADER, str(index)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        growth.append(float(done.stdout))
    # An array with one float for each of the 900,000 additional cuts would take 7 MB.
    assert growth[1] < growth[0] + 5, growth


def plain_index(folder: Path, count: int) -> Path:
    make_index(folder, 1)
    rng = np.random.default_rng(0)
    ends = np.arange(1, count + 1) * 30
    ShardIndex(
        ids=Texts(np.full(30 * count, ord("x"), np.uint8), ends),
        duration=rng.gamma(4, 2, count).clip(1, 30),
        speaker=rng.integers(0, 5, count).astype(np.int32),
        shard=(np.arange(count) // 10_000).astype(np.int32),
        offset=rng.integers(0, 2**40, count),
        size=rng.integers(1, 10**5, count),
        speakers=Texts.pack(f"s{i}" for i in range(5)),
    ).save(folder / FILE, compressed=False)
    for shard in range(-(-count // 10_000)):
        (folder / tar_name(shard)).touch()
    return folder


def test_counts_of_a_selection_do_not_change_on_access(tmp_path):
    make_index(tmp_path / "x")
    cuts, report = load_shards(str(tmp_path / "x"), max_duration=7.0)
    before = Counter(report.counts)
    assert len(list(cuts)) == len(cuts) == report.num_cuts and report.counts == before == +cuts.selection.counts
