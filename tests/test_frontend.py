"""Log-mel values, lengths, dither, and the normalizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from streamnest.errors import UserError
from streamnest.frontend import KINDS as LOG_MEL_KINDS
from streamnest.frontend import LogMel
from streamnest.normalization import KINDS, Normalizer

FIXTURES = Path(__file__).parent / "fixtures"
Audio = Callable[..., torch.Tensor]


@pytest.mark.parametrize("kind", ["NA", "per_feature"])
def test_features_equal_the_fixture_within_1e_4(kind: str) -> None:
    case = torch.load(FIXTURES / f"features_{kind}.pt", weights_only=True)
    features, frames = LogMel().eval()(case["wav"], case["lengths"])
    features = Normalizer("utterance")(features, frames) if kind == "per_feature" else features
    assert frames.tolist() == case["feat_len"].tolist()
    for row, count in enumerate(frames.tolist()):
        torch.testing.assert_close(features[row, :, :count], case["feats"][row, :, :count], rtol=0, atol=1e-4)


def test_sherpa_features_equal_those_of_the_runtime() -> None:
    audio = torch.load(FIXTURES / "features_NA.pt", weights_only=True)["wav"][:1]
    audio[:, 4000:8000] = 0.0  # the floor of the energy
    expected = torch.load(FIXTURES / "features_sherpa.pt", weights_only=True)["feats"]
    features, _ = LogMel(kind="sherpa").eval()(audio, torch.tensor([16000]))
    torch.testing.assert_close(features[0, :, : expected.shape[1]], expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", LOG_MEL_KINDS)
def test_pieces_of_audio_give_the_features_of_the_whole(speech_like: Audio, kind: str) -> None:
    frontend, audio = LogMel(kind=kind).double().eval(), speech_like(2, 5000, dtype=torch.float64)
    whole, count = frontend(audio, torch.tensor([5000, 5000]))
    state, parts = frontend.init_state(2), []
    for piece in audio.split([0, 200, 77, 1, 1000, 3722], dim=1):
        features, state = frontend.step(piece, state)
        parts.append(features)
    found = torch.cat(parts, dim=2)
    assert int(count[0]) - found.shape[2] <= 1
    torch.testing.assert_close(found, whole[..., : found.shape[2]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", LOG_MEL_KINDS)
def test_look_ahead_is_declared_to_the_sample(speech_like: Audio, kind: str) -> None:
    frontend = LogMel(kind=kind).double().eval()
    audio = speech_like(1, 8000, dtype=torch.float64)
    before, _ = frontend(audio, torch.tensor([8000]))
    last = 160 * 21 - 1 + frontend.lookahead_samples  # last sample that frame 20 sees
    for sample, changes in ((last, True), (last + 1, False)):
        moved = audio.clone()
        moved[0, sample] += 1.0
        after, _ = frontend(moved, torch.tensor([8000]))
        assert bool((after[0, :, 20] != before[0, :, 20]).any()) is changes


def test_dither_depends_on_its_key_and_modifies_no_input(speech_like: Audio) -> None:
    frontend, audio, keys = LogMel(dither=1e-2).train(), speech_like(2, 4000), torch.tensor([7, 8])
    kept = audio.clone()
    lengths = torch.tensor([4000, 4000])
    first, _ = frontend(audio, lengths, keys)
    again, _ = frontend(audio.flip(0), lengths, keys.flip(0))
    other, _ = frontend(audio, lengths, keys + 1)
    quiet, _ = frontend.eval()(audio, lengths)
    assert torch.equal(audio, kept)
    assert torch.equal(first, again.flip(0))
    assert not torch.equal(first, other)
    assert not torch.equal(first, quiet)


def test_padding_changes_no_frame(speech_like: Audio) -> None:
    frontend, audio = LogMel().eval(), speech_like(1, 5000)
    alone, count = frontend(audio, torch.tensor([5000]))
    padded, _ = frontend(torch.nn.functional.pad(audio, (0, 3000)), torch.tensor([5000]))
    assert torch.equal(alone[:, :, : int(count)], padded[:, :, : int(count)])
    assert padded[:, :, int(count) :].abs().max() == 0


def test_audio_shorter_than_a_hop_has_no_frame() -> None:
    features, frames = LogMel().eval()(torch.zeros(1, 159), torch.tensor([159]))
    assert features.shape == (1, 80, 0)
    assert int(frames) == 0


def fitted(kind: str) -> Normalizer:
    norm = Normalizer(kind, 80)
    norm.set_statistics(torch.full((80,), -8.0), torch.full((80,), 3.0))
    return norm


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "utterance"])
def test_causal_normalizers_do_not_see_the_future(kind: str) -> None:
    features = torch.randn(1, 80, 50) * 3 - 8
    changed = features.clone()
    changed[..., 30:] += 5
    norm, length = fitted(kind), torch.tensor([50])
    assert norm.causal
    assert torch.equal(norm(features, length)[..., :30], norm(changed, length)[..., :30])
    assert not torch.equal(norm(features, length)[..., 30:], norm(changed, length)[..., 30:])


def test_utterance_normalization_sees_the_future_and_declares_it() -> None:
    features = torch.randn(1, 80, 50)
    changed = features.clone()
    changed[..., 49] += 5
    norm = fitted("utterance")
    assert not norm.causal
    assert not torch.equal(norm(features, torch.tensor([50]))[..., 0], norm(changed, torch.tensor([50]))[..., 0])


@pytest.mark.parametrize("kind", KINDS)
def test_normalizers_keep_padding_at_zero_and_rows_separate(kind: str) -> None:
    features = torch.randn(2, 80, 50) * 3 - 8
    features[1, :, 20:] = 0
    norm = fitted(kind)
    both = norm(features, torch.tensor([50, 20]))
    alone = norm(features[1:, :, :20], torch.tensor([20]))
    assert both[1, :, 20:].abs().max() == 0
    torch.testing.assert_close(both[1:, :, :20], alone, rtol=1e-5, atol=1e-6)


def test_online_normalization_approaches_the_statistics_of_the_stream() -> None:
    features = torch.randn(1, 80, 20000) * 2 - 7
    settled = fitted("online")(features, torch.tensor([20000]))[..., 15000:]
    assert abs(float(settled.mean())) < 0.05
    assert abs(float(settled.std()) - 1) < 0.05


def test_missing_statistics_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(UserError, match="statistics"):
        Normalizer("global")(torch.zeros(1, 80, 3), torch.tensor([3]))
    with pytest.raises(UserError, match="global, online, utterance, none"):
        Normalizer("batch")
    with pytest.raises(UserError, match="choose one of nest, sherpa"):
        LogMel(kind="kaldi")
