"""Speed perturbation: durations, limits of batches, and dependence on seed and position."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
import torch
from corpus import data_module, make_cut, noise_mixing, tone, write_manifest

from streamnest.data.audio import load_mono
from streamnest.data.augment.augmentation import Augmentation
from streamnest.data.augment.rooms import RoomBank
from streamnest.data.augment.speed import SpeedPerturbation
from streamnest.data.config import AugmentConfig, ReverbConfig, SpeedConfig
from streamnest.data.dataset import SpeechDataset
from streamnest.data.manifest import load_cuts
from streamnest.data.sampling.samplers import BatchIndex
from streamnest.data.shards.plan import make_plan
from streamnest.data.shards.writing import write_shards
from streamnest.errors import UserError

RATE = 16000
LONGEST = 2.0


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Utterances of 0.5 to 2 s, and one to split."""
    folder = tmp_path_factory.mktemp("files")
    cuts = [make_cut(folder, f"t{i}", tone(0.5 + i % 16 / 10, i), speaker=f"s{i % 4}") for i in range(32)]
    cuts.append(make_cut(folder, "long", tone(5.3, 99)))
    return str(write_manifest(folder / "cuts.jsonl", cuts))


def module(train, speed=1.0, **changes):
    augment = AugmentConfig(noise_ratio=0.0, reverb=ReverbConfig(prob=0.5), speed=SpeedConfig(prob=speed))
    options = {"val_manifest": train, "batch_duration": 6.0, "num_buckets": 2, "num_batches": 16, **changes}
    data = data_module(train, Augmentation(augment), min_duration=0.5, max_duration=LONGEST, **options)
    data.setup("fit")
    return data


def same(one, two):
    return one.ids == two.ids and torch.equal(one.clean, two.clean) and torch.equal(one.noisy, two.noisy)


@pytest.mark.parametrize("factor", [0.9, 0.95, 1.0, 1.1])
def test_speed_changes_the_duration_and_the_pitch_by_the_factor(factor):
    hertz = 440.0
    audio = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE).astype(np.float32)
    faster = SpeedPerturbation(SpeedConfig(prob=1.0, factors=[factor]))(audio, "a", 0)
    assert len(faster) == ceil(RATE / factor) and faster.dtype == np.float32
    spectrum = np.abs(np.fft.rfft(faster * np.hanning(len(faster))))
    assert np.argmax(spectrum) * RATE / len(faster) == pytest.approx(hertz * factor, abs=2)


def test_factors_depend_on_seed_step_and_cut():
    speed = SpeedPerturbation(SpeedConfig(prob=0.6, factors=[0.8, 1.25]))
    audio = tone(0.01)
    sizes = [len(speed(audio, f"c{i}", 3)) for i in range(600)]
    counts = {size: sizes.count(size) for size in (128, 160, 200)}
    assert sum(counts.values()) == 600 and all(130 < count < 290 for count in counts.values())
    assert sizes == [len(speed(audio, f"c{i}", 3)) for i in range(600)]
    assert sizes != [len(speed(audio, f"c{i}", 4)) for i in range(600)]
    speed.seed = 1
    assert sizes != [len(speed(audio, f"c{i}", 3)) for i in range(600)]


def test_speed_changes_both_signals_but_not_the_cache(tmp_path):
    cuts = [make_cut(tmp_path, f"c{i}", tone(1, i)) for i in range(2)]
    slower = SpeedPerturbation(SpeedConfig(prob=1.0, factors=[0.8]))
    data = SpeechDataset(cuts, noise_mixing(1.0, 0.0), cache_mb=1, speed=slower)
    for step in range(2):
        batch = data[BatchIndex(step, [0, 1])]
        assert batch.lengths.tolist() == [20000, 20000] and batch.noisy.shape == batch.clean.shape == (2, 20000)
        assert batch.seconds == 2.5 and batch.ids == ["c0", "c1"]


def test_perturbed_batches_fill_the_limit_without_exceeding_it(tmp_path):
    cuts = [make_cut(tmp_path, f"c{i}", tone(1, i)) for i in range(24)]
    equal = str(write_manifest(tmp_path / "equal.jsonl", cuts))
    seconds = [batch.clean.numel() / RATE for batch in module(equal, num_buckets=1).train_dataloader()]
    # Resampling rounds up by at most one sample per row. Six rows would have 6.7 s if one of them were slow.
    assert 5.0 < max(seconds) <= 6.0 + 6 / RATE


def test_limits_of_duration_apply_to_the_perturbed_audio(manifest):
    batches = list(module(manifest, num_batches=40).train_dataloader())
    lengths = torch.cat([batch.lengths for batch in batches])
    assert int(lengths.min()) >= 0.5 * RATE and int(lengths.max()) <= LONGEST * RATE + 1


def test_whole_utterances_near_a_limit_keep_their_speed_within_it(manifest):
    """An utterance that is dropped when it is too long must not be dropped because it might become too long."""
    batches = list(module(manifest, num_batches=40, on_long="skip").train_dataloader())
    seconds = {name: set() for batch in batches for name in batch.ids}
    for batch in batches:
        for name, length in zip(batch.ids, batch.lengths.tolist()):
            seconds[name].add(round(length / RATE, 2))
    assert seconds.keys() == {f"t{i}" for i in range(32)}
    assert seconds["t0"] <= {0.5, 0.56} and seconds["t15"] <= {2.0, 1.82}
    assert max(len(values) for values in seconds.values()) == 2


def test_probability_zero_changes_no_batch(manifest):
    plain = data_module(manifest, batch_duration=6.0, num_buckets=2, num_batches=16, max_duration=LONGEST)
    plain.setup("fit")
    for one, two in zip(plain.train_dataloader(), module(manifest, speed=0.0).train_dataloader(), strict=True):
        assert one.ids == two.ids and torch.equal(one.clean, two.clean)


@pytest.mark.parametrize("augment_val", [False, True])
def test_validation_and_statistics_use_unperturbed_audio(manifest, augment_val):
    validation = [module(manifest, prob, augment_val=augment_val).val_dataloader() for prob in (1.0, 0.0)]
    for one, two in zip(*validation, strict=True):
        assert one.ids == two.ids and torch.equal(one.clean, two.clean)
    cuts = {cut.id: cut for cut in load_cuts(manifest, min_duration=0.55, max_duration=1.8)[0]}
    read = {}
    for batch in module(manifest).statistics_batches():
        read |= {name: row[:length].numpy() for name, row, length in zip(batch.ids, batch.clean, batch.lengths)}
    assert read.keys() == cuts.keys()
    assert all(np.array_equal(audio, load_mono(cuts[name])) for name, audio in read.items())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restored_loader_continues_perturbed_batches_exactly(manifest, workers):
    whole = list(module(manifest).train_dataloader())
    loader = module(manifest, num_workers=workers).train_dataloader()
    stream = iter(loader)
    head = [next(stream) for _ in range(5)]
    restored = module(manifest, num_workers=workers).train_dataloader()
    restored.load_state_dict(loader.state_dict())
    assert all(same(one, two) for one, two in zip([*head, *restored], whole, strict=True))


def test_shards_give_the_perturbed_batches_of_the_files(manifest, tmp_path):
    cuts, _ = load_cuts(manifest, max_duration=3600)
    write_shards(cuts, str(tmp_path / "shards"), make_plan(cuts, "flac", 7))
    files, archives = (module(source).train_dataloader() for source in (manifest, str(tmp_path / "shards")))
    for one, two in zip(files, archives, strict=True):
        assert one.ids == two.ids and torch.equal(one.lengths, two.lengths)
        assert (one.clean - two.clean).abs().max() <= 4 / 32768


def test_recorded_rooms_are_loaded_only_if_reverb_is_on(manifest, tmp_path):
    impulse = np.zeros(160, np.float32)
    impulse[[5, 45]] = 0.5
    rooms = str(write_manifest(tmp_path / "rirs.jsonl", [make_cut(tmp_path, "rir", impulse)]))
    data = module(manifest, rir_manifest=rooms)
    assert isinstance(data.augment.reverb.rooms, RoomBank) and data.report["rir"].num_cuts == 1
    dry = data_module(manifest, Augmentation(), rir_manifest=rooms)
    dry.setup("fit")
    assert dry.augment.reverb.rooms is None and "rir" not in dry.report


@pytest.mark.parametrize("wrong", [{"prob": -0.1}, {"factors": []}, {"factors": [1.0, 3.0]}])
def test_invalid_settings_are_refused(wrong):
    with pytest.raises(UserError, match=rf"augment\.speed\.{next(iter(wrong))}"):
        SpeedPerturbation(SpeedConfig(**wrong))
