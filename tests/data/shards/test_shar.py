from __future__ import annotations

import gzip
import re
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile
import torch
from corpus import data_module, make_cut, tone, write_manifest
from lhotse import CutSet
from processes import run

from streamnest.data.audio import load_mono
from streamnest.data.augment.augmentation import Augmentation
from streamnest.data.config import AugmentConfig
from streamnest.data.dataset import SpeechDataset
from streamnest.data.manifest import load_cuts
from streamnest.data.sampling.samplers import BatchIndex
from streamnest.data.shards import store as stores
from streamnest.data.shards import writing
from streamnest.data.shards.index import ShardIndex, tar_name
from streamnest.data.shards.indexing import index_folder, index_shard
from streamnest.data.shards.plan import make_plan
from streamnest.data.shards.reading import load_shards
from streamnest.data.shards.writing import write_shards
from streamnest.errors import UserError


def write(manifest, out, audio_format="flac", shard_size=7, **limits):
    cuts, _ = load_cuts(manifest, max_duration=3600, **limits)
    return write_shards(cuts, str(out), make_plan(cuts, audio_format, shard_size))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Writes cuts of 1 to 5.2 s; training splits the longest."""
    folder = tmp_path_factory.mktemp("files")
    cuts = [make_cut(folder, f"ü{i}", tone(1 + i * 0.1237, i), speaker=f"s{i % 3}") for i in range(20)]
    cuts.insert(3, make_cut(folder, "long", tone(5.2001, 99)))
    return write_manifest(folder / "cuts.jsonl", cuts)


@pytest.fixture(scope="module")
def shards(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "train"
    write(manifest, out)
    return out


@pytest.fixture
def damaged(manifest, tmp_path):
    """Copies shards 0, 1 and 2 of seven cuts each, to damage them."""
    write(manifest, tmp_path / "damaged")
    return tmp_path / "damaged"


def module(train, **changes):
    options = {"batch_duration": 8.0, "num_buckets": 2, "num_batches": 14, "max_duration": 3.1, **changes}
    data = data_module(train, Augmentation(AugmentConfig(prob=1.0, noise_ratio=0.0)), **options)
    data.setup("fit")
    return data


def same(one, two):
    return one.ids == two.ids and one.step == two.step and torch.equal(one.noisy, two.noisy)


def test_shards_and_files_give_the_same_batches(manifest, shards):
    files, archives = module(str(manifest), seed=5), module(str(shards), seed=5)
    assert archives.report["train"] == files.report["train"] and files.report["train"].counts == {
        "split": 4,
        "too short": 3,
    }
    for one, two in zip(files.train_dataloader(), archives.train_dataloader(), strict=True):
        assert one.ids == two.ids and one.step == two.step and torch.equal(one.lengths, two.lengths)
        assert (one.clean - two.clean).abs().max() <= 1 / 32768
        assert (one.noisy - two.noisy).abs().max() <= 1e-3
    other = [batch.ids for batch in module(str(shards), seed=6).train_dataloader()]
    assert other != [batch.ids for batch in files.train_dataloader()]


@pytest.mark.parametrize(("shortest", "longest"), [(0.5, 0.7), (0.1, 1.7), (0.9, 2.6), (1.0, 30.0)])
@pytest.mark.parametrize("on_long", ["split", "skip"])
def test_shards_and_files_give_the_same_windows(manifest, shards, shortest, longest, on_long):
    limits = {"min_duration": shortest, "max_duration": longest, "on_long": on_long}
    if on_long == "skip" and longest < 1:
        with pytest.raises(UserError, match=r"no usable cuts .*21 too long"):
            load_shards(str(shards), **limits)
        return
    (files, one), (archives, two) = load_cuts(manifest, **limits), load_shards(str(shards), **limits)
    assert [cut.id for cut in files] == [cut.id for cut in archives]
    assert [cut.duration for cut in files] == archives.durations.tolist()
    assert one == two
    for file, archive in list(zip(files, archives))[::5]:
        assert np.abs(load_mono(file) - load_mono(archive)).max() <= 1 / 32768


@pytest.mark.parametrize("audio_format", ["opus", "wav"])
def test_other_formats_keep_ids_durations_and_audio(manifest, tmp_path, audio_format):
    write(manifest, tmp_path, audio_format)
    (files, _), (archives, _) = load_cuts(manifest), load_shards(str(tmp_path))
    assert [cut.id for cut in files] == [cut.id for cut in archives]
    assert [cut.duration for cut in files] == archives.durations.tolist()
    for file, archive in list(zip(files, archives))[::4]:
        one, two = load_mono(file), load_mono(archive)
        # Opus distorts white noise; wav is lossless.
        assert np.corrcoef(one, two)[0, 1] > (0.8 if audio_format == "opus" else 1 - 1e-6)


def test_lhotse_reads_the_shards_itself(manifest, shards):
    files, read = load_cuts(manifest, max_duration=3600)[0], list(CutSet.from_shar(in_dir=shards))
    assert [cut.id for cut in read] == [cut.id for cut in files]
    assert all(one.duration == two.duration for one, two in zip(files, read))
    assert np.abs(files[4].load_audio() - read[4].load_audio()).max() <= 1 / 32768
    assert read[4].supervisions[0].speaker == "s0"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restored_loader_of_shards_continues_exactly(shards, workers):
    whole = list(module(str(shards)).train_dataloader())
    loader = module(str(shards), num_workers=workers).train_dataloader()
    stream = iter(loader)
    head = [next(stream) for _ in range(6)]
    restored = module(str(shards), num_workers=workers).train_dataloader()
    restored.load_state_dict(loader.state_dict())
    assert all(same(one, two) for one, two in zip(head + list(restored), whole, strict=True))


def test_foreign_shards_get_an_index_and_keep_their_files(manifest, shards, tmp_path):
    for path in shards.glob("*.0*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="no shards"):
        load_shards(str(tmp_path))
    index_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {p.name for p in shards.iterdir()} - {"cuts.dropped.json"}
    assert load_shards(str(tmp_path))[1] == load_shards(str(shards))[1]
    assert len(list(CutSet.from_shar(in_dir=tmp_path))) == 21
    with pytest.raises(UserError, match="already has an index"):
        index_folder(tmp_path)
    with pytest.raises(UserError, match=r"no recording\.NNNNNN\.tar in this folder"):
        index_folder(tmp_path / "none")


def test_shards_of_another_rate_get_no_index(shards, tmp_path):
    for path in shards.glob("*.0*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"samples are \('ü0', 16000, 16000\), expected \('ü0', 8000, 8000\)"):
        index_folder(tmp_path, sampling_rate=8000)


@pytest.mark.parametrize("name", ["recording.000001.tar", "cuts.000000.jsonl.gz"])
def test_incomplete_shards_get_no_index(shards, tmp_path, name):
    for path in shards.glob("*.0*"):
        if path.name != name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=f"{name} is missing"):
        index_folder(tmp_path)
    # An incomplete download of cuts beside a complete archive.
    (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    with pytest.raises(UserError, match=r"recordings for 0 cuts|cannot be read: [^\n]*$"):
        index_folder(tmp_path)


def test_a_truncated_archive_is_reported_once(damaged, caplog):
    tar = damaged / tar_name(1)
    tar.write_bytes(tar.read_bytes()[:100_000])
    cuts, _ = load_shards(str(damaged))
    batch = SpeechDataset(cuts)[BatchIndex(0, list(range(len(cuts))))]
    lost = batch.skipped["unreadable"]
    assert 0 < lost < 7 and batch.skipped == {"unreadable": lost} and len(batch.ids) == len(cuts) - lost
    assert caplog.text.count("is skipped") == 1 and tar.name in caplog.text


def test_a_damaged_member_is_skipped_and_the_others_are_read(damaged):
    index = ShardIndex.from_bytes((damaged / "cuts.index.npz").read_bytes())
    data = bytearray((damaged / tar_name(0)).read_bytes())
    data[index.offset[2] : index.offset[2] + 200] = bytes(200)
    (damaged / tar_name(0)).write_bytes(data)
    batch = SpeechDataset(load_shards(str(damaged))[0])[BatchIndex(0, [1, 2, 3])]
    assert len(batch.ids) == 2 and batch.skipped == {"unreadable": 1}


def test_missing_archives_are_dropped_at_start_or_skipped_later(damaged):
    (damaged / tar_name(2)).unlink()
    with pytest.raises(UserError, match="7 of 21 cuts are in missing archives"):
        load_shards(str(damaged))
    cuts, report = load_shards(str(damaged), max_bad_share=0.5)
    assert len(cuts) == 14 and report.counts == {"missing file": 7}
    unchecked, _ = load_shards(str(damaged), check_files=False)
    assert SpeechDataset(unchecked)[BatchIndex(0, [0, 20])].skipped == {"missing": 1}


def test_two_processes_share_each_epoch_of_shards(shards):
    seen = []
    for rank in range(2):
        data = module(str(shards))
        place = (data._num_batches(), data.config.seed, rank, 2)
        sampler = data._sampler(data._dataset("train"), *place)
        seen += [i for batch in list(sampler)[: len(sampler.buckets) // 2] for i in batch.indices]
    assert sorted(seen) == list(range(len(data._cuts["train"])))


class Killed(Exception):
    pass


def test_interrupted_sharding_continues_to_the_same_result(manifest, shards, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(writing, "index_shard", _fail_at(2))
        with pytest.raises(Killed):
            write(manifest, tmp_path / "out")
    with pytest.raises(UserError, match=r"not finished; run streamnest shard again"):
        load_shards(str(tmp_path / "out"))
    before = (tmp_path / "out" / tar_name(0)).stat().st_mtime_ns
    _, dropped = write(manifest, tmp_path / "out")
    assert (tmp_path / "out" / tar_name(0)).stat().st_mtime_ns == before and not dropped
    assert (tmp_path / "out" / "cuts.index.npz").read_bytes() == (shards / "cuts.index.npz").read_bytes()
    for shard in range(3):
        assert (tmp_path / "out" / tar_name(shard)).read_bytes() == (shards / tar_name(shard)).read_bytes()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in shards.iterdir())


def _fail_at(shard):
    def index(folder, number, rate):
        if number == shard:
            raise Killed
        return index_shard(folder, number, rate)

    return index


def test_finished_shards_are_kept_and_other_cuts_refused(manifest, damaged):
    before = {path.name: path.stat().st_mtime_ns for path in damaged.glob("*.tar")}
    write(manifest, damaged)
    assert {path.name: path.stat().st_mtime_ns for path in damaged.glob("*.tar")} == before
    with pytest.raises(UserError, match="shards with another num_cuts and digest"):
        write(manifest, damaged, min_duration=2.0)
    with pytest.raises(UserError, match="shards with another format"):
        write(manifest, damaged, "opus")


def test_unreadable_audio_is_counted_across_interruptions(tmp_path):
    cuts = [make_cut(tmp_path, f"c{i}", tone(1, i)) for i in range(6)]
    (tmp_path / "c1.wav").write_bytes(b"RIFFnonsense" * 9)
    soundfile.write(tmp_path / "c4.wav", np.zeros(16000), 16000)
    path = write_manifest(tmp_path / "cuts.jsonl", cuts)
    for _ in range(2):
        index, dropped = write(path, tmp_path / "out", shard_size=1)
        assert list(index.ids) == ["c0", "c2", "c3", "c5"] and dropped == {"unreadable": 1, "constant": 1}
    assert [cut.id for cut in CutSet.from_shar(in_dir=tmp_path / "out")] == list(index.ids)


def test_channels_rates_and_parts_become_training_audio(tmp_path):
    stereo = make_cut(tmp_path, "stereo", tone(1.3, channels=2))
    slow = make_cut(tmp_path, "slow", tone(1.5, rate=8000), rate=8000)
    part = make_cut(tmp_path, "part", tone(3.0)).truncate(offset=1.0, duration=1.25)
    path = write_manifest(tmp_path / "cuts.jsonl", [stereo, slow, part])
    write(path, tmp_path / "out")
    (files, _), (archives, _) = load_cuts(path), load_shards(str(tmp_path / "out"))
    for channel in ("mix", 0):
        for file, archive in zip(files, archives, strict=True):
            assert np.abs(load_mono(file, channel) - load_mono(archive, channel)).max() <= 1 / 32768


@pytest.mark.parametrize("content", [None, "cuts.plan.json", "cuts.index.npz"])
def test_a_folder_without_shards_is_refused(damaged, tmp_path, content):
    if content is None:
        with pytest.raises(UserError, match=r"no shards.*streamnest shard"):
            module(str(tmp_path))
        return
    (damaged / content).write_bytes(b"nonsense")
    with pytest.raises(UserError, match=f"{content}: cannot be read"):
        module(str(damaged))


def test_shards_of_an_object_store_are_written_and_read(manifest, shards):
    url = "memory://bucket/train"
    write(manifest, url)
    remote, local = module(url), module(str(shards))
    assert all(same(a, b) for a, b in zip(remote.train_dataloader(), local.train_dataloader(), strict=True))
    cuts, _ = load_shards(url)
    stores.RemoteStore(url)._connect()[0].rm_file(f"/bucket/train/{tar_name(1)}")
    assert SpeechDataset(cuts)[BatchIndex(0, [0, 9])].skipped == {"missing": 1}


class Ranges(SimpleHTTPRequestHandler):
    """Starts a web server that serves ranges of files."""

    def do_GET(self):
        path, asked = Path(self.translate_path(self.path)), re.match(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        if asked:
            data = data[int(asked[1]) : int(asked[2]) + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_behind_a_web_server_are_read_by_every_process(shards, workers):
    pytest.importorskip("aiohttp")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(shards))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        remote = module(f"http://127.0.0.1:{server.server_port}", num_workers=workers)
        seen, local = list(remote.train_dataloader()), module(str(shards)).train_dataloader()
        server.shutdown()
    assert all(same(one, two) for one, two in zip(seen, local, strict=True))


def test_noise_may_come_from_shards(manifest, shards):
    data = module(str(manifest), noise_manifest=str(shards))
    assert len(data.augment.mixing.noise.sample(np.random.default_rng(0), 9000)) == 9000
    assert data.report["noise"].num_cuts == 21


def test_a_read_only_location_is_refused(manifest, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: cannot be written"):
        write(manifest, tmp_path / "file")


def test_an_unknown_kind_of_store_is_refused():
    with pytest.raises(UserError, match=r"nowhere://x: .*nowhere"):
        module("nowhere://x")


def test_the_number_of_open_archives_is_bounded(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "_HANDLES", 2)
    write(manifest, tmp_path, shard_size=2)
    cuts, _ = load_shards(str(tmp_path))
    assert all(len(load_mono(cut)) for cut in cuts) and len(cuts.store._handles) == 2


@pytest.mark.slow
def test_the_command_shards_in_several_processes(manifest, shards, tmp_path):
    command = ("scripts/shard.py", manifest, "--out", tmp_path / "out")
    assert "written: 21 cuts" in run(*command, "--shard_size", 7, "--jobs", 2).stdout
    assert (tmp_path / "out/cuts.index.npz").read_bytes() == (shards / "cuts.index.npz").read_bytes()
    wrong = run(*command, "--shard_size", 8)
    assert wrong.returncode == 2 and "shards with another shard_size" in wrong.stderr and "Trace" not in wrong.stderr
