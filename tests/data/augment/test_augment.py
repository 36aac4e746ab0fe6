from __future__ import annotations

import numpy as np
import pytest
import torch
from corpus import make_cut, noise_mixing, tone
from hypothesis import given
from hypothesis import strategies as st

from streamnest.data.augment.noise import NoiseBank, excerpt
from streamnest.data.augment.noise_and_speakers import place_segments
from streamnest.errors import UserError

LENGTHS = torch.tensor([16000, 12000, 9001, 4000])
IDS = ["a", "b", "c", "d"]


@pytest.fixture
def bank(tmp_path):
    return NoiseBank([make_cut(tmp_path, f"n{i}", tone(0.3 + i, i)) for i in range(3)])


def batch(lengths=LENGTHS, seed=5):
    clean = torch.zeros(len(lengths), int(lengths.max()))
    for i, length in enumerate(lengths):
        clean[i, :length] = torch.from_numpy(tone(int(length) / 16000, seed + i))
    return clean


def ratio_db(clean, noisy, length):
    mix = (noisy - clean)[:length].double()
    return float(10 * torch.log10(clean[:length].double().square().mean() / mix.square().mean()))


@pytest.mark.parametrize("noise_ratio", [0.0, 1.0])
@pytest.mark.parametrize("segments", [(1, 1), (2, 5)])
def test_the_energy_ratio_over_the_utterance_is_as_configured(bank, noise_ratio, segments):
    kinds = {"noise_db": (7.0, 7.0), "speech_db": (-3.0, -3.0)}
    mixing = noise_mixing(1.0, noise_ratio, **kinds, segments=segments, speakers=(1, 2), noise=bank)
    clean = batch()
    noisy = mixing(clean, LENGTHS, IDS, step=3)
    for row, length in enumerate(LENGTHS):
        assert ratio_db(clean[row], noisy[row], length) == pytest.approx(7.0 if noise_ratio else -3.0, abs=1e-3)


def test_ratios_vary_over_their_range(bank):
    mixing = noise_mixing(1.0, 1.0, noise_db=(-5, 20), noise=bank)
    clean = batch()
    ratios = [ratio_db(clean[0], mixing(clean, LENGTHS, IDS, step)[0], LENGTHS[0]) for step in range(60)]
    assert -5 <= min(ratios) < 0 and 15 < max(ratios) <= 20


def test_half_of_the_utterance_is_covered_but_not_its_padding(bank):
    mixing = noise_mixing(1.0, 0.5, mix_rate=(0.5, 0.5), segments=(1, 4), noise=bank)
    clean = batch()
    noisy = mixing(clean, LENGTHS, IDS, step=0)
    for row, length in enumerate(LENGTHS.tolist()):
        assert int((noisy[row] != clean[row]).sum()) == pytest.approx(length // 2, rel=0.01)
        assert not noisy[row, length:].any()


def test_clean_audio_and_unselected_rows_are_not_modified(bank):
    clean = batch(LENGTHS.repeat(50))
    ids = [f"cut{i}" for i in range(200)]
    before = clean.clone()
    noisy = noise_mixing(0.5, 0.5, noise=bank)(clean, LENGTHS.repeat(50), ids, step=0)
    assert torch.equal(clean, before)
    mixed = (noisy != clean).any(1)
    assert 70 < int(mixed.sum()) < 130
    assert noise_mixing(0.0, 1.0, noise=bank)(clean, LENGTHS.repeat(50), ids, step=0) is clean


def test_noise_depends_only_on_seed_step_and_cut(bank):
    mixing = noise_mixing(1.0, 1.0, segments=(1, 3), noise=bank)
    clean = batch()
    noisy = mixing(clean, LENGTHS, IDS, step=7)
    reordered = mixing(clean.flip(0)[1:], LENGTHS.flip(0)[1:], IDS[::-1][1:], step=7).flip(0)
    assert torch.equal(reordered, noisy[:3])
    again = noise_mixing(1.0, 1.0, segments=(1, 3), noise=NoiseBank(bank.cuts, cache_size=1))
    assert torch.equal(again(clean, LENGTHS, IDS, step=7), noisy)
    other_step = mixing(clean, LENGTHS, IDS, step=8)
    other_seed = noise_mixing(1.0, 1.0, segments=(1, 3), seed=1, noise=bank)(clean, LENGTHS, IDS, step=7)
    assert not torch.equal(other_step[0], noisy[0]) and not torch.equal(other_seed[0], noisy[0])


def test_speech_comes_from_other_rows_scaled():
    mixing = noise_mixing(1.0, 0.0, speech_db=(0.0, 0.0), mix_rate=(0.25, 0.25))
    lengths = torch.tensor([16000, 16000])
    clean = batch(lengths)
    mix = (mixing(clean, lengths, ["a", "b"], step=0) - clean)[0]
    piece = mix[mix != 0]
    assert len(piece) == 4000
    windows = clean[1].unfold(0, 4000, 1)
    match = (windows @ piece) / (windows.norm(dim=1) * piece.norm())
    assert float(match.max()) > 0.9999


def test_a_row_is_not_mixed_with_its_own_speaker(bank):
    mixing = noise_mixing(1.0, 0.0)
    lengths = torch.tensor([16000, 16000, 16000])
    clean = batch(lengths)
    noisy = mixing(clean, lengths, ["a", "b", "c"], 0, ["x", "x", None])
    assert torch.equal(mixing(clean[:2], lengths[:2], ["a", "b"], 0, ["x", "x"]), clean[:2])
    assert (noisy != clean).any(1).all()
    mixing.noise = bank
    assert (mixing(clean[:2], lengths[:2], ["a", "b"], 0, ["x", "x"]) != clean[:2]).any(1).all()


def test_a_batch_of_one_gets_noise_or_stays_clean(bank):
    clean, lengths = batch(LENGTHS[:1]), LENGTHS[:1]
    for noise_ratio in (0.0, 1.0):
        assert noise_mixing(1.0, noise_ratio)(clean, lengths, ["a"], 0) is clean
        assert not torch.equal(noise_mixing(1.0, noise_ratio, noise=bank)(clean, lengths, ["a"], 0), clean)


@pytest.mark.parametrize("noise_ratio", [0.0, 1.0])
def test_silent_speech_or_noise_changes_nothing(tmp_path, noise_ratio):
    silent = tone(0.5)
    silent[1:] = 0
    bank = NoiseBank([make_cut(tmp_path, "silent", silent)])
    mixing = noise_mixing(1.0, noise_ratio, mix_rate=(0.01, 0.01), noise=bank)
    clean = torch.zeros(2, 8000)
    clean[1] = torch.from_numpy(tone(0.5))
    for step in range(5):
        noisy = mixing(clean, torch.tensor([8000, 8000]), ["a", "b"], step)
        assert torch.isfinite(noisy).all() and not noisy[0].any()


def test_unreadable_noise_leaves_rows_clean(tmp_path, caplog):
    cut = make_cut(tmp_path, "n", tone(1))
    (tmp_path / "n.wav").write_bytes(b"RIFF")
    mixing = noise_mixing(1.0, 1.0, noise=NoiseBank([cut]))
    assert torch.equal(mixing(batch(), LENGTHS, IDS, 0), batch())
    assert caplog.text.count("is not used") == 1


@given(st.integers(1, 400), st.floats(0, 1), st.integers(1, 9), st.integers(0, 2**32))
def test_segments_cover_their_share_in_order_without_overlap(length, rate, count, seed):
    spans = place_segments(np.random.default_rng(seed), length, rate, count)
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= length
    assert all(stop > start for start, stop in spans)
    covered = max(1, int(length * rate))
    assert sum(stop - start for start, stop in spans) == covered and len(spans) == min(count, covered)


def test_segments_occur_at_all_positions():
    starts = [place_segments(np.random.default_rng(seed), 100, 0.5, 1)[0][0] for seed in range(300)]
    assert set(starts) == set(range(51))


def test_noise_has_a_random_start_and_short_noise_is_looped():
    source = np.arange(10, dtype=np.float32)
    starts = {int(excerpt(np.random.default_rng(seed), source, 4)[0]) for seed in range(200)}
    assert starts == set(range(7))
    looped = excerpt(np.random.default_rng(1), source, 25)
    assert len(looped) == 25 and (np.diff(looped) % 10 == 1).all()


def test_the_noise_cache_is_bounded(bank):
    bank.cache_size = 2
    rng = np.random.default_rng(0)
    for _ in range(20):
        bank.sample(rng, 100)
    assert len(bank._cache) == 2


@pytest.mark.parametrize("wrong", [{"prob": 1.5}, {"noise_db": (5, -5)}, {"mix_rate": (0, 2)}, {"segments": (0, 1)}])
def test_invalid_ranges_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        noise_mixing(**wrong)


def test_an_empty_noise_corpus_is_refused():
    with pytest.raises(UserError, match="no cuts"):
        NoiseBank([])
