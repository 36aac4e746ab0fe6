"""Lengths, channels, sampling rates and formats of audio."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
from corpus import data_module, make_cut, tone, write_manifest
from lhotse import SupervisionSegment
from lhotse.augmentation import Speed

from streamnest.data import resampling
from streamnest.data.audio import BadAudioError, load_mono
from streamnest.data.augment.recordings import RecordingBank
from streamnest.data.manifest import load_cuts
from streamnest.data.resampling import resample
from streamnest.errors import UserError
from streamnest.streaming.audio_sources import load_audio


def load(folder, line, channel="mix"):
    (folder / "m.jsonl").write_text(json.dumps(line))
    return load_mono(load_cuts(folder / "m.jsonl")[0][0], channel)


def line(sources, channel, seconds=1.0, rate=16000, **changes):
    """Returns a manifest line of files with the channels that the recording declares."""
    recording = {
        "id": "r",
        "sources": [{"type": "file", "channels": channels, "source": name} for name, channels in sources],
        "sampling_rate": rate,
        "num_samples": round(seconds * rate),
        "duration": seconds,
    }
    kind = "MonoCut" if isinstance(channel, int) else "MultiCut"
    cut = {"id": "c", "start": 0.0, "duration": seconds, "channel": channel, "supervisions": [], "type": kind}
    return {**cut, "recording": recording, **changes}


@pytest.mark.parametrize(("extra", "good"), [(0.02, True), (0.03, False), (0.4, False), (0.6, False)])
def test_at_most_25_ms_may_be_missing(tmp_path, extra, good):
    make_cut(tmp_path, "a", tone(1.0))
    longer = line([("a.wav", [0])], 0, 1.0 + extra)
    beyond = {**line([("a.wav", [0])], 0), "start": 0.5, "duration": 0.5 + extra}
    for cut in (longer, beyond):
        if good:
            assert len(load(tmp_path, cut)) == round(16000 * cut["duration"])
            continue
        with pytest.raises(BadAudioError) as error:
            load(tmp_path, cut)
        assert error.value.cause == "not as long as declared"


def test_noise_that_ends_early_is_not_used(tmp_path, caplog):
    make_cut(tmp_path, "a", tone(1.0))
    (tmp_path / "m.jsonl").write_text(json.dumps(line([("a.wav", [0])], 0, 1.3)))
    bank = RecordingBank(load_cuts(tmp_path / "m.jsonl")[0], "noise")
    assert bank.pick(np.random.default_rng(0)) is None and "not as long as declared" in caplog.text


@pytest.fixture
def files(tmp_path):
    """Three signals in files of one, two and three channels."""
    signals = np.stack([tone(1.0, seed) for seed in range(3)])
    for name, rows in (("one", [1]), ("two", [0, 1]), ("three", [0, 1, 2])):
        soundfile.write(tmp_path / f"{name}.wav", signals[rows].T, 16000, subtype="FLOAT")
    return tmp_path, signals


@pytest.mark.parametrize(
    ("sources", "channels", "channel", "expected"),
    [
        ([("two.wav", [0, 1])], 1, "mix", [1]),
        ([("two.wav", [0])], 0, "mix", [0]),
        ([("two.wav", [1])], 1, "mix", [1]),
        ([("two.wav", [0, 1])], [0, 1], "mix", [0, 1]),
        ([("two.wav", [0, 1])], [0, 1], 1, [1]),
        ([("three.wav", [0, 1, 2])], [1, 2], 2, [2]),
        ([("three.wav", [0, 1, 2])], [2, 1], 2, [2]),
        ([("three.wav", [0, 1, 2])], [1, 2], "first", [1]),
        ([("three.wav", [0, 1])], 0, "mix", [0]),
        ([("three.wav", [0, 1])], 1, "mix", [1]),
        ([("three.wav", [0, 2])], 2, "mix", [2]),
        ([("two.wav", [0]), ("one.wav", [1])], [0, 1], 1, [1]),
        ([("two.wav", [0]), ("two.wav", [1])], 1, "mix", [1]),
    ],
)
def test_the_channels_that_a_cut_names_are_read(files, sources, channels, channel, expected):
    folder, signals = files
    np.testing.assert_allclose(load(folder, line(sources, channels), channel), signals[expected].mean(0), atol=1e-6)


def test_a_channel_that_a_cut_lacks_is_an_error(files):
    with pytest.raises(BadAudioError, match="no such channel"):
        load(files[0], line([("three.wav", [0, 1, 2])], [1, 2]), 0)


def test_channels_out_of_phase_are_not_averaged(tmp_path):
    audio = tone(1.0)
    soundfile.write(tmp_path / "anti.wav", np.stack([audio, 1e-3 * tone(1.0, 1) - audio], 1), 16000, subtype="FLOAT")
    cut = line([("anti.wav", [0, 1])], [0, 1])
    with pytest.raises(BadAudioError, match="channels out of phase"):
        load(tmp_path, cut)
    with pytest.raises(UserError, match="out of phase"):
        load_audio(tmp_path / "anti.wav", 16000)
    assert np.array_equal(load(tmp_path, cut, 0), audio)


def test_texts_of_other_channels_are_left_out(files):
    supervisions = [SupervisionSegment(str(i), "r", 0.0, 1.0, channel=i, text=f"text {i}").to_dict() for i in (0, 1)]
    (files[0] / "m.jsonl").write_text(json.dumps(line([("two.wav", [0, 1])], [0, 1], supervisions=supervisions)))
    for channel, text in (("mix", "text 0 text 1"), (1, "text 1")):
        data = data_module(str(files[0] / "m.jsonl"), channel=channel)
        data.setup()
        assert list(data.texts()) == [text]


@pytest.mark.parametrize("orig", [8000, 22050, 44100])
def test_an_evaluated_filter_equals_the_tabulated_one(orig):
    audio = torch.from_numpy(tone(0.3, rate=orig, channels=2).T.copy())
    actual, expected = resampling._evaluated(audio, orig, 16000), resample(audio, orig, 16000)
    assert actual.shape == expected.shape and (actual - expected).abs().max() < 1e-4


@pytest.mark.parametrize(("orig", "new"), [(44100, 16000), (8000, 16000), (44101, 16000), (16000, 16000)])
def test_resampling_in_blocks_equals_resampling_at_once(orig, new):
    for count in (1, 700, 150_001):
        audio = torch.randn(count, generator=torch.Generator().manual_seed(0))
        for size in (320, 20_000) if count < 1000 or orig != 44101 else (20_000,):
            blocks = list(resampling.resample_blocks(audio.split(size), orig, new))
            torch.testing.assert_close(torch.cat(blocks), resample(audio, orig, new), rtol=0, atol=2e-6)
            assert count < 100_000 or len(blocks) > 1


def test_little_audio_is_held_back_by_resampling_in_blocks():
    resampler = resampling.BlockResampler(44100, 16000)
    returned = 0
    for pushed in range(320, 16_000, 320):
        returned += len(resampler.push(torch.ones(320)))
        assert 0 <= pushed - returned * 441 / 160 <= resampler.delay < 0.02 * 44100


@pytest.mark.parametrize("rate", [44099, 96001])
def test_rates_without_common_divisor_need_little_memory(tmp_path, monkeypatch, rate):
    monkeypatch.setattr(resampling, "tabulated", lambda *_: pytest.fail("20 GB"))
    time = np.arange(rate) / rate
    soundfile.write(tmp_path / "a.wav", (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32), rate)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    for actual in (load(tmp_path, line([("a.wav", [0])], 0, rate=rate)), load_audio(tmp_path / "a.wav", 16000).numpy()):
        np.testing.assert_allclose(actual[100:-100], expected[100:-100], atol=2e-3)
    assert Speed(0.9123)(tone(0.1)[None], 16000).shape == (1, 1754)


def test_unrealistic_sampling_rates_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.1), 10)
    with pytest.raises(UserError, match="10 Hz: it must be from 1000 to 768000"):
        load_audio(tmp_path / "a.wav", 16000)
    (tmp_path / "m.jsonl").write_text(json.dumps(line([("a.wav", [0])], 0, rate=10)))
    with pytest.raises(UserError, match="sampling_rate is 10"):
        load_cuts(tmp_path / "m.jsonl")


def test_formats_that_cannot_seek_are_read_everywhere(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(2.0, rate=8000), 8000, subtype="GSM610")
    samples = soundfile.info(tmp_path / "a.wav").frames
    whole = load(tmp_path, line([("a.wav", [0])], 0, samples / 8000, 8000))
    assert len(whole) == 2 * samples == len(load_audio(tmp_path / "a.wav", 16000))
    cut = {**line([("a.wav", [0])], 0, samples / 8000, 8000), "start": 1.0, "duration": 0.5}
    np.testing.assert_allclose(load(tmp_path, cut)[100:-100], whole[16100:23900], atol=1e-4)


def test_a_video_must_have_its_declared_length(tmp_path):
    cut = make_cut(tmp_path, "a", tone(1.0))
    row = json.loads(write_manifest(tmp_path / "m.jsonl", [cut]).read_text())
    row["recording"] |= {"duration": 1.5, "num_samples": 24000}
    row["recording"]["sources"][0]["video"] = {"fps": 25.0, "num_frames": 37, "height": 1, "width": 1}
    with pytest.raises(BadAudioError, match="not as long as declared"):
        load(tmp_path, {**row, "duration": 1.5})
