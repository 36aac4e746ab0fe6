"""Reverberation: alignment with the dry speech, causality, and properties of rooms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import make_cut, tone
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnest.data.audio import load_mono
from streamnest.data.augment.augmentation import Augmentation
from streamnest.data.augment.noise import NoiseBank
from streamnest.data.augment.reverb import Reverberation
from streamnest.data.augment.rooms import RoomBank, convolve, from_direct_path, simulate
from streamnest.data.config import AugmentConfig, ReverbConfig
from streamnest.data.manifest import load_cuts
from streamnest.errors import UserError

RATE = 16000
SAMPLE = Path(__file__).resolve().parents[3] / "data/sample16k/cuts_dev.jsonl"
LENGTHS = torch.tensor([16000, 12000, 9001])
IDS = ["a", "b", "c"]


def recorded(delay=300, seconds=0.4, sign=-1.0):
    """Makes a response as it is measured: device noise, propagation delay, direct path, reflections."""
    rng = np.random.default_rng(4)
    response = 0.02 * rng.standard_normal(round(seconds * RATE))
    tail = np.arange(len(response) - delay)
    response[delay:] += 0.3 * rng.standard_normal(len(tail)) * 10 ** (-3 * tail / len(tail))
    response[delay] = 3.0 * sign
    return (0.1 * response).astype(np.float32)


@pytest.fixture(scope="module")
def speech():
    cuts, _ = load_cuts(SAMPLE)
    return [load_mono(cut)[: 3 * RATE] for cut in cuts[:3]]


@pytest.fixture
def rooms(tmp_path):
    return RoomBank([make_cut(tmp_path, f"r{i}", recorded(100 + 200 * i)) for i in range(3)])


def batch(lengths=LENGTHS):
    clean = torch.zeros(len(lengths), int(lengths.max()))
    for i, length in enumerate(lengths):
        clean[i, :length] = torch.from_numpy(tone(int(length) / RATE, 5 + i))
    return clean


def reverberation(prob=0.0, rooms=None, **settings):
    return Reverberation(ReverbConfig(prob=prob, **settings), rooms)


def lag_of_peak(dry, wet):
    size = 2 * len(dry)
    # Whitened, because the autocorrelation of speech is wide.
    cross = np.fft.rfft(wet, size) * np.fft.rfft(dry, size).conj()
    correlation = np.fft.irfft(cross / (np.abs(cross) + 1e-9), size)
    peak = int(np.argmax(correlation))
    return peak - size if peak > len(dry) else peak


@pytest.mark.parametrize("kind", ["simulated", "recorded"])
def test_reverberated_speech_is_aligned_with_the_dry_speech(speech, rooms, kind):
    reverb = reverberation(1.0, drr_db=(-3.0, 10.0), rooms=rooms if kind == "recorded" else None)
    for step, dry in enumerate(speech):
        wet = reverb(torch.from_numpy(dry)[None], torch.tensor([len(dry)]), ["x"], step)[0].numpy()
        assert lag_of_peak(dry, wet) == 0
        assert np.corrcoef(dry, wet)[0, 1] > 0.1 and np.abs(wet - dry).max() > 0.01


@pytest.mark.parametrize("kind", ["simulated", "recorded"])
def test_later_input_does_not_change_earlier_output(speech, rooms, kind):
    reverb = reverberation(1.0, rooms=rooms if kind == "recorded" else None)
    dry = torch.from_numpy(speech[0])[None]
    lengths = torch.tensor([dry.shape[1]])
    before = reverb(dry, lengths, ["x"], 0)
    for moment in (1, 16001, 40000):
        other = dry.clone()
        other[:, moment:] = 30 * torch.from_numpy(tone(3, moment))[: dry.shape[1] - moment]
        after = reverb(other, lengths, ["x"], 0)
        torch.testing.assert_close(after[:, :moment], before[:, :moment], rtol=0, atol=1e-8)
        assert not torch.allclose(after[:, moment : moment + 100], before[:, moment : moment + 100], atol=1e-2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 700), st.integers(0, 2**32))
def test_the_convolution_equals_its_definition(length, taps, seed):
    rng = np.random.default_rng(seed)
    audio, response = rng.standard_normal(length).astype(np.float32), rng.standard_normal(taps)
    expected = np.convolve(audio.astype(np.float64), response)[:length]
    np.testing.assert_allclose(convolve(audio, response), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("t60", "drr_db"), [(0.2, 10.0), (0.8, -5.0)])
def test_a_simulated_room_has_the_configured_properties(t60, drr_db):
    response = simulate(np.random.default_rng(1), t60, drr_db, RATE)
    direct, tail = response[:40], response[40:]
    assert np.square(response).sum() == pytest.approx(1)
    assert response[0] > 0 and not direct[1:].any()
    assert 10 * np.log10(np.square(direct).sum() / np.square(tail).sum()) == pytest.approx(drr_db)
    # Schroeder integral from -5 to -25 dB.
    decay = 10 * np.log10(np.cumsum(np.square(tail)[::-1])[::-1] / np.square(tail).sum())
    assert 3 * int(np.sum((decay < -5) & (decay > -25))) / RATE == pytest.approx(t60, rel=0.1)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_recorded_room_starts_with_its_direct_path(sign):
    source = recorded(delay=300, sign=sign)
    response = from_direct_path(source, RATE)
    assert response[0] == response.max() > 0 and np.square(response).sum() == pytest.approx(1)
    np.testing.assert_allclose(response / response[0], source[300:] / source[300], rtol=1e-6)


def test_a_very_long_recorded_response_is_truncated():
    assert len(from_direct_path(recorded(seconds=3.0), RATE)) == 2 * RATE


def test_reverberation_roughly_preserves_the_level(rooms):
    clean = batch()
    for bank in (None, rooms):
        wet = reverberation(1.0, rooms=bank)(clean, LENGTHS, IDS, 0)
        for row, length in enumerate(LENGTHS):
            ratio = wet[row, :length].square().mean() / clean[row, :length].square().mean()
            assert abs(10 * float(torch.log10(ratio))) < 1.5


def test_rows_keep_their_length_and_clean_audio_is_unmodified():
    clean = batch()
    before = clean.clone()
    wet = reverberation(1.0)(clean, LENGTHS, IDS, 0)
    assert torch.equal(clean, before) and wet.shape == clean.shape and wet.dtype == torch.float32
    for row, length in enumerate(LENGTHS):
        assert not wet[row, length:].any() and (wet[row, :length] != clean[row, :length]).any()
    assert reverberation(0.0)(clean, LENGTHS, IDS, 0) is clean


def test_the_share_of_reverberated_rows_is_as_configured():
    lengths = torch.full((200,), 400)
    clean = batch(lengths)
    wet = reverberation(0.3)(clean, lengths, [f"cut{i}" for i in range(200)], 0)
    assert 40 < int((wet != clean).any(1).sum()) < 80


@pytest.mark.parametrize("kind", ["simulated", "recorded"])
def test_a_room_depends_only_on_seed_step_and_cut(rooms, kind):
    reverb = reverberation(1.0, rooms=rooms if kind == "recorded" else None)
    clean = batch()
    wet = reverb(clean, LENGTHS, IDS, 7)
    reordered = reverb(clean.flip(0)[1:], LENGTHS.flip(0)[1:], IDS[::-1][1:], 7).flip(0)
    assert torch.equal(reordered, wet[:2])
    assert any(not torch.equal(reverb(clean, LENGTHS, IDS, step)[0], wet[0]) for step in range(20))
    reverb.seed = 1
    assert not torch.equal(reverb(clean, LENGTHS, IDS, 7), wet)


def test_noise_and_speakers_are_mixed_into_reverberant_speech(tmp_path):
    clean, reverb = batch(), reverberation(1.0)
    noise = NoiseBank([make_cut(tmp_path, "n", tone(0.9, 77))])
    wet = reverb(clean, LENGTHS, IDS, 2)
    for noise_ratio in (0.0, 1.0):
        settings = AugmentConfig(prob=1.0, noise_ratio=noise_ratio, noise_db=[6.0, 6.0], speech_db=[6.0, 6.0])
        settings.reverb = ReverbConfig(prob=1.0)
        augment = Augmentation(settings)
        augment.mixing.noise = noise
        noisy = augment(clean, LENGTHS, IDS, 2)
        assert torch.equal(noisy, augment.mixing(wet, LENGTHS, IDS, 2))
        for row, length in enumerate(LENGTHS):
            energies = [x[row, :length].double().square().mean() for x in (wet, noisy - wet)]
            assert float(10 * torch.log10(energies[0] / energies[1])) == pytest.approx(6.0, abs=1e-3)


def test_unreadable_rooms_leave_rows_dry(tmp_path, caplog):
    cut = make_cut(tmp_path, "r", recorded())
    (tmp_path / "r.wav").write_bytes(b"RIFF")
    clean = batch()
    assert reverberation(1.0, rooms=RoomBank([cut]))(clean, LENGTHS, IDS, 0) is clean
    assert caplog.text.count("room impulse response") == 1


def test_the_first_channel_of_a_response_is_used(tmp_path):
    both = np.stack([recorded(100), recorded(900)], axis=1)
    room = RoomBank([make_cut(tmp_path, "two", both)]).sample(np.random.default_rng(0), RATE)
    np.testing.assert_array_equal(room, from_direct_path(recorded(100), RATE))


@pytest.mark.parametrize("wrong", [{"prob": 1.5}, {"t60": (0.5, 0.2)}, {"t60": (0, 1)}, {"drr_db": (5, -5)}])
def test_invalid_ranges_are_refused(wrong):
    with pytest.raises(UserError, match=rf"augment\.reverb\.{next(iter(wrong))}"):
        reverberation(**wrong)
