"""The upstream of S3PRL: layers, lengths, independence of the batch, look-ahead, and S3PRL's own interface."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from models import ready
from omegaconf import DictConfig

from streamnest.checkpoint.loading import load_model, write_checkpoint
from streamnest.encoder import subsampling
from streamnest.errors import UserError
from streamnest.interop.s3prl import registration
from streamnest.interop.s3prl.upstream import UpstreamExpert, streamnest_20ms

Compose = Callable[..., DictConfig]
DYNAMIC = Path(__file__).parents[1] / "fixtures/stored/dynamic.ckpt"
EIGHT = ("encoder=lookahead80", "encoder.subsampling_factor=8")
SETTINGS = [
    ("encoder=lookahead40",),
    EIGHT,
    ("encoder=lookahead40", "encoder.style=delayed"),
    ("encoder=lookahead40", "encoder.subsampling_padding=shifted"),
]


@pytest.fixture
def upstream(run_config: Compose, tmp_path: Path) -> Callable[..., UpstreamExpert]:
    def make(*overrides: str, stride: int | None = None) -> UpstreamExpert:
        write_checkpoint(ready(run_config(*overrides)), tmp_path / "model.ckpt")
        return UpstreamExpert(str(tmp_path / "model.ckpt"), stride=stride).eval()

    return make


def noise(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(n, generator=generator) for n in lengths]


@pytest.mark.parametrize("overrides", SETTINGS)
@torch.no_grad()
def test_hidden_states_have_the_expected_lengths_and_ignore_the_batch(
    upstream: Callable[..., UpstreamExpert], overrides: tuple[str, ...]
) -> None:
    expert, wavs = upstream(*overrides), noise(16000, 3 * 1280, 801, 1)
    stride = expert.get_downsample_rates("hidden_states")
    hidden = expert(wavs)["hidden_states"]
    assert stride == (1280 if overrides == EIGHT else 640) and len(hidden) == len(expert.encoder.layers) + 1
    assert {x.shape for x in hidden} == {(4, math.ceil(16000 / stride), expert.encoder.d_model)}
    for row, wav in enumerate(wavs):
        frames = math.ceil(len(wav) / stride)
        for together, alone in zip(hidden, expert([wav])["hidden_states"], strict=True):
            torch.testing.assert_close(together[row, :frames], alone[0], atol=2e-5, rtol=0)
            assert not together[row, frames:].any()


@pytest.mark.parametrize("overrides", SETTINGS)
@torch.no_grad()
def test_the_last_hidden_state_is_the_representation(
    upstream: Callable[..., UpstreamExpert], overrides: tuple[str, ...], tmp_path: Path
) -> None:
    expert, (wav,) = upstream(*overrides), noise(12800)
    model = load_model(tmp_path / "model.ckpt")
    expected = model(wav[None], torch.tensor([len(wav)]))[0][:, model.encoder.target_shift :]
    assert torch.equal(expert([wav])["last_hidden_state"], expected)


@pytest.mark.parametrize("overrides", SETTINGS)
@torch.no_grad()
def test_no_hidden_state_looks_further_ahead_than_certified(
    upstream: Callable[..., UpstreamExpert], overrides: tuple[str, ...], tmp_path: Path
) -> None:
    expert, (wav,) = upstream(*overrides), noise(15000)
    model = load_model(tmp_path / "model.ckpt")
    # With shifted subsampling, hidden state t is output t + 1.
    lookahead = math.ceil(16 * (model.latency.lookahead_ms + model.encoder.target_shift * model.encoder.frame_ms))
    before = expert([wav])["hidden_states"]
    for frame in (2, 5, 6):
        end = (frame + 1) * expert.stride + lookahead
        changed = torch.cat([wav[:end], -wav[end:]])
        for one, other in zip(before, expert([changed])["hidden_states"], strict=True):
            torch.testing.assert_close(one[:, : frame + 1], other[:, : frame + 1], atol=1e-6, rtol=0)
            assert not torch.equal(one, other)


def test_fine_tuning_reaches_all_weights_that_are_used(
    upstream: Callable[..., UpstreamExpert], monkeypatch: pytest.MonkeyPatch
) -> None:
    expert, wavs = upstream("encoder=lookahead40").train(), noise(8000, 8000, 4000)
    monkeypatch.setattr(subsampling, "_CPU_ELEMENTS", 1)  # one row at a time, as in large batches
    hidden = expert(wavs)["hidden_states"]
    assert len(hidden) == len(expert.encoder.layers) + 1 and len(hidden[0]) == 3
    sum(x.square().sum() for x in hidden).backward()  # type: ignore[union-attr]
    assert all(weight.grad is not None for weight in expert.parameters())


@torch.no_grad()
def test_frames_are_repeated_for_tasks_with_shorter_frames() -> None:
    wavs = noise(2000, 700)
    frames, repeated = UpstreamExpert(str(DYNAMIC)).eval(), streamnest_20ms(str(DYNAMIC)).eval()
    assert repeated.get_downsample_rates("hidden_states") == 320
    for x, y in zip(frames(wavs)["hidden_states"], repeated(wavs)["hidden_states"], strict=True):
        assert torch.equal(y, x.repeat_interleave(2, dim=1)[:, : math.ceil(2000 / 320)])


@torch.no_grad()
def test_a_context_of_a_dynamic_encoder_is_selected() -> None:
    (wav,) = noise(16000)
    states = [UpstreamExpert(str(DYNAMIC), name).eval()([wav])["last_hidden_state"] for name in (None, "causal")]
    assert not torch.equal(*states)
    with pytest.raises(UserError, match="nonsense"):
        UpstreamExpert(str(DYNAMIC), "nonsense")


def test_settings_that_do_not_fit_s3prl_are_refused(run_config: Compose, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give -k CKPT"):
        UpstreamExpert()
    for stride in (0, 400, 1280):
        with pytest.raises(UserError, match=f"stride={stride} must divide the 640 samples"):
            UpstreamExpert(str(DYNAMIC), stride=stride)
    write_checkpoint(ready(run_config("encoder=causal", "frontend.sample_rate=8000")), tmp_path / "narrow.ckpt")
    with pytest.raises(UserError, match="takes audio at 8000 Hz, but S3PRL has 16000 Hz"):
        UpstreamExpert(str(tmp_path / "narrow.ckpt"))


def test_effects_of_sox_are_those_of_keyword_spotting(tmp_path: Path) -> None:
    samples = torch.stack(noise(800, 800)).t()
    soundfile.write(tmp_path / "a.wav", samples.numpy(), 8000, subtype="FLOAT")
    effects = [["channels", "1"], ["rate", "16000"], ["gain", "-6"], ["norm"]]
    found, rate = registration.apply_effects_file(str(tmp_path / "a.wav"), effects[:1] + effects[2:3])
    torch.testing.assert_close(found[0], samples.mean(1) * 10 ** (-6 / 20))
    found, rate = registration.apply_effects_file(str(tmp_path / "a.wav"), effects)
    assert found.shape == (1, 1600) and rate == 16000 and float(found.abs().max()) == pytest.approx(1)
    assert torch.equal(registration.load(str(tmp_path / "a.wav"), 10, 20)[0], samples.t()[:, 10:30])
    assert registration.info(str(tmp_path / "a.wav")).num_frames == 800
    with pytest.raises(UserError, match=r"the SoX effect silence 1 0\.1 is not supported"):
        registration.apply_effects(samples.t(), 8000, [["silence", "1", "0.1"]])


def test_a_missing_s3prl_is_reported_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "restore_torchaudio", lambda: None)
    monkeypatch.setitem(sys.modules, "s3prl", None)
    with pytest.raises(UserError, match=r"pip install 'streamnest\[s3prl\]'"):
        registration.register()


@pytest.mark.parametrize("overrides", [("encoder=lookahead40",), EIGHT])
@torch.no_grad()
def test_the_interface_of_s3prl_accepts_the_upstream(
    upstream: Callable[..., UpstreamExpert], overrides: tuple[str, ...], tmp_path: Path
) -> None:
    pytest.importorskip("s3prl", reason="needs the extra s3prl")
    registration.register()
    from s3prl.nn import Featurizer, S3PRLUpstream
    from s3prl.upstream.interfaces import Featurizer as RunnerFeaturizer

    upstream(*overrides)
    for name in ("streamnest", "streamnest_20ms"):
        expert = S3PRLUpstream(name, str(tmp_path / "model.ckpt")).eval()
        stride = expert.downsample_rates[0]
        lengths = torch.tensor([9000, 4321, 1])
        hidden, frames = Featurizer(expert)(*expert(0.1 * torch.randn(3, 9000), lengths))
        assert hidden.shape[1] == int(frames[0]) and frames.tolist() == [
            math.ceil(n / stride) for n in lengths.tolist()
        ]
        expert(torch.randn(1, 300), torch.tensor([300]))  # shorter than a frame
        wavs = noise(9000, 4321)
        features = RunnerFeaturizer(expert.upstream, upstream_device="cpu")(wavs, expert.upstream(wavs))
        assert [len(x) for x in features] == [round(len(wav) / stride) for wav in wavs]
