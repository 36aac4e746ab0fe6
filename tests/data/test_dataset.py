from __future__ import annotations

import numpy as np
import pytest
import torch
from corpus import make_cut, noise_mixing, tone

from streamnest.data.augment.speed import SpeedPerturbation
from streamnest.data.config import SpeedConfig
from streamnest.data.dataset import SpeechDataset
from streamnest.data.sampling.samplers import BatchIndex
from streamnest.randomness import hash_id


@pytest.fixture
def cuts(tmp_path):
    return [make_cut(tmp_path, f"c{i}", tone(1 + i / 2, i), speaker=f"s{i}") for i in range(3)]


def test_a_batch_is_padded_with_zeros(cuts):
    batch = SpeechDataset(cuts)[BatchIndex(5, [2, 0])]
    assert batch.clean.shape == (2, 32000) and batch.clean.dtype == torch.float32
    assert batch.lengths.tolist() == [32000, 16000] and batch.ids == ["c2", "c0"]
    assert np.array_equal(batch.clean[1, :16000].numpy(), tone(1, 0)) and not batch.clean[1, 16000:].any()
    assert batch.keys.tolist() == [hash_id("c2"), hash_id("c0")] and batch.step == 5
    assert batch.seconds == 3.0 and batch.skipped == {} and batch.noisy is batch.clean


def test_hashes_identify_the_clean_samples_of_each_row(cuts):
    speed = SpeedPerturbation(SpeedConfig(prob=1.0, factors=[0.9]))
    first, alone = (SpeechDataset(cuts, hash_audio=True)[BatchIndex(0, rows)] for rows in ([0, 1, 2], [1]))
    noisy = SpeechDataset(cuts, noise_mixing(1.0, 0.0), hash_audio=True)[BatchIndex(1, [0, 1])]
    slow = SpeechDataset(cuts, speed=speed, hash_audio=True)[BatchIndex(0, [1])]
    assert len(set(first.hashes)) == 3 and alone.hashes == first.hashes[1:2] and noisy.hashes == first.hashes[:2]
    assert slow.hashes[0] not in first.hashes and SpeechDataset(cuts)[BatchIndex(0, [1])].hashes == []


def test_augmentation_gets_the_step_and_the_speakers(cuts):
    mixing = noise_mixing(1.0, 0.0)
    batch = SpeechDataset(cuts, mixing)[BatchIndex(5, [0, 1])]
    assert torch.equal(batch.noisy, mixing(batch.clean, batch.lengths, batch.ids, 5))
    assert not torch.equal(batch.noisy, batch.clean)
    for cut in cuts:
        cut.supervisions[0].speaker = "same"
    assert SpeechDataset(cuts, mixing)[BatchIndex(5, [0, 1])].noisy is not None
    same = SpeechDataset(cuts, mixing)[BatchIndex(5, [0, 1])]
    assert torch.equal(same.noisy, same.clean)


def truncated(path):
    path.write_bytes(path.read_bytes()[:40000])


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "unreadable": lambda path: path.write_bytes(b"RIFFnonsense" * 10),
    "not as long as declared": truncated,
}


@pytest.mark.parametrize("cause", DAMAGE)
def test_damaged_files_are_skipped_counted_and_logged_once(cuts, tmp_path, caplog, cause):
    DAMAGE[cause](tmp_path / "c1.wav")
    dataset = SpeechDataset(cuts)
    for _ in range(2):
        batch = dataset[BatchIndex(0, [0, 1, 2])]
        assert batch.ids == ["c0", "c2"] and batch.skipped == {cause: 1}
    assert caplog.text.count("is skipped") == 1 and "c1.wav" in caplog.text


def with_nan():
    audio = tone(1)
    audio[77] = np.nan
    return audio


@pytest.mark.parametrize(
    ("audio", "cause"),
    [(with_nan(), "not finite"), (np.full(16000, np.inf, np.float32), "not finite")]
    + [(np.full(16000, level, np.float32), "constant") for level in (0.0, 0.3)],
)
def test_bad_samples_are_skipped_and_counted(cuts, tmp_path, audio, cause):
    batch = SpeechDataset([*cuts, make_cut(tmp_path, "bad", audio)])[BatchIndex(0, [3, 1])]
    assert batch.ids == ["c1"] and batch.skipped == {cause: 1}


def test_an_empty_file_is_skipped(cuts, tmp_path):
    (tmp_path / "c0.wav").write_bytes(b"")
    assert SpeechDataset(cuts)[BatchIndex(0, [0, 1])].skipped == {"unreadable": 1}


@pytest.mark.parametrize("indices", [[0, 1], []])
def test_a_batch_without_audio_is_one_row_of_silence(cuts, tmp_path, indices):
    for name in ("c0", "c1"):
        (tmp_path / f"{name}.wav").unlink()
    batch = SpeechDataset(cuts, noise_mixing(1.0))[BatchIndex(9, indices)]
    assert len(batch.clean) == 1 and not batch.clean.any() and batch.lengths.tolist() == [160]
    assert batch.step == 9 and batch.seconds == 0.0 and sum(batch.skipped.values()) == len(indices)


def test_channels_are_averaged_or_selected(tmp_path):
    audio = tone(1, channels=2)
    cut = make_cut(tmp_path, "stereo", audio)
    index = BatchIndex(0, [0])
    np.testing.assert_allclose(SpeechDataset([cut])[index].clean[0], audio.mean(1), atol=1e-7)
    for channel in (0, 1):
        assert np.array_equal(SpeechDataset([cut], channel=channel)[index].clean[0].numpy(), audio[:, channel])
    assert SpeechDataset([cut], channel=2)[index].skipped == {"no such channel": 1}


def test_peaks_beyond_one_are_kept(tmp_path):
    audio = 20 * tone(1)
    assert np.array_equal(
        SpeechDataset([make_cut(tmp_path, "loud", audio)])[BatchIndex(0, [0])].clean[0].numpy(), audio
    )


def test_cached_audio_is_limited_and_not_modified_by_augmentation(cuts, tmp_path):
    kept = SpeechDataset(cuts, noise_mixing(1.0, 0.0), cache_mb=0.13)
    first = kept[BatchIndex(0, [0, 1, 2])]
    for i in range(3):
        (tmp_path / f"c{i}.wav").unlink()
    second = kept[BatchIndex(0, [0, 1, 2])]
    assert second.ids == ["c0"] and second.skipped == {"missing": 2}
    assert torch.equal(second.clean[0], first.clean[0, :16000])


def test_a_copied_batch_preserves_identity_of_clean_and_noisy(cuts):
    batch = SpeechDataset(cuts)[BatchIndex(1, [0])]
    moved = batch.to("meta")
    assert moved.noisy is moved.clean and moved.clean.device.type == "meta" and moved.ids == batch.ids
    batch.noisy = batch.clean.clone()
    assert batch.to("meta").noisy is not batch.to("meta").clean
