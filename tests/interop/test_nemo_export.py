"""Exported models are equal when imported again; unsupported settings are refused or reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from archives import CONFIGS, NEST
from models import ready
from omegaconf import DictConfig

from streamnest.checkpoint.loading import write_checkpoint
from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.encoder import EncoderConfig, FastConformer
from streamnest.errors import UserError
from streamnest.interop.nemo import encoder_state_from_nemo, export_nemo, import_nemo
from streamnest.interop.nemo.archive import read_archive
from streamnest.interop.nemo.context import contexts, nemo_contexts
from streamnest.interop.nemo.section import ConfigSection
from streamnest.interop.nemo.weights import encoder_state_to_nemo
from streamnest.pretraining import Pretraining

Compose = Callable[..., DictConfig]
FIXTURES = Path(__file__).parents[1] / "fixtures"


def exported(model: Pretraining, folder: Path) -> tuple[Pretraining, TransferReport]:
    """Exports and imports a model; returns it with the report of the export."""
    write_checkpoint(model, folder / "model.ckpt")
    _, report = export_nemo(folder / "model.ckpt", folder / "model.nemo")
    return import_nemo(folder / "model.nemo", CONFIGS)[0], report


def assert_same(model: Pretraining, again: Pretraining) -> None:
    """Asserts equal weights, and equal outputs and targets for the same audio."""
    state = again.state_dict()
    for name, value in model.state_dict().items():
        if name not in ("train_counts", "seconds_seen") and not name.startswith(("input_norm.", "target_norm.")):
            assert torch.equal(value, state[name.replace("masking.masking.", "masking.")]), name
    audio, length = 0.1 * torch.randn(1, 24000), torch.tensor([24000])
    features, frames = model.frontend(audio, length)
    with torch.no_grad():
        assert torch.equal(again(audio, length)[0], model(audio, length)[0])
    assert torch.equal(again.targets(features, frames), model.targets(features, frames))


@pytest.mark.parametrize("name", ["bidirectional_8x", "chunked_4x_8_1", "causal_8x_8_1"])
def test_weight_conversion_is_inverted_exactly(name: str) -> None:
    state = torch.load(FIXTURES / f"encoder_{name}.pt", weights_only=True)["encoder"]["state"]
    again = encoder_state_to_nemo(encoder_state_from_nemo(state))
    assert again.keys() == state.keys() and all(torch.equal(again[key], state[key]) for key in state)


def test_a_streaming_checkpoint_survives_a_round_trip(run_config: Compose, tmp_path: Path) -> None:
    model = ready(run_config("encoder=lookahead40", "masking=causal", "quantizer.num_codebooks=2"))
    model.input_norm.set_statistics(torch.linspace(-9, -7, 80), torch.linspace(2, 3, 80))
    again, report = exported(model, tmp_path)
    assert_same(model, again)
    assert again.latency == model.latency and again.encoder.context == model.encoder.context
    assert (again.target_norm.kind, again.objective.weights) == ("utterance", model.objective.weights)
    for name in ("encoder.normalize=global", "encoder.subsampling_padding=aligned", "quantizer.normalize=utterance"):
        assert report.outcomes(name) == ["differs"], name
    for name in ("masking.live_edge_prob", "objective.unmasked_weight"):
        assert report.outcomes(name) == ["left out"], name


def test_an_imported_archive_is_exported_unchanged(tmp_path: Path) -> None:
    model = import_nemo(NEST, CONFIGS)[0]
    _, report = exported(model, tmp_path)
    one, other = read_archive(NEST), read_archive(tmp_path / "model.nemo")
    bank = "preprocessor.featurizer.fb"
    torch.testing.assert_close(other.weights.pop(bank), one.weights.pop(bank), rtol=0, atol=1e-6)
    assert one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        torch.testing.assert_close(other.weights[name], value, rtol=0, atol=1e-7)
    for section in ("encoder", "quantizer", "decoder", "loss", "masking"):
        assert one.config[section].items() <= {**one.config[section], **other.config[section]}.items(), section
    assert not [part for part in report.parts if part.outcome == "differs"]


def test_dynamic_contexts_and_frozen_batch_norm_survive_a_round_trip(run_config: Compose, tmp_path: Path) -> None:
    choices = ("encoder=dynamic", "encoder.conv_norm=frozen_batch_norm", "encoder.normalize=none", "encoder.bias=false")
    model = ready(run_config(*choices, "objective=masked_next_token", "masking=multiscale"))
    again, report = exported(model, tmp_path)
    assert again.encoder.default_context == model.encoder.default_context
    assert set(again.encoder.choices.by_name.values()) == set(model.encoder.choices.by_name.values())
    assert sum(again.encoder.choices.weights) == 1.0
    audio, length = 0.1 * torch.randn(1, 24000), torch.tensor([24000])
    with torch.no_grad():
        assert torch.equal(again(audio, length)[0], model(audio, length)[0])
    assert torch.equal(again.objective.heads.weight, model.objective.masked.heads.weight)
    assert report.outcomes("encoder.conv_norm=frozen_batch_norm") == ["differs"]
    for name in ("masking", "objective.next_token"):
        assert report.outcomes(name) == ["left out"], name


def test_unsupported_heads_are_reported_and_become_zeros(run_config: Compose, tmp_path: Path) -> None:
    model = ready(run_config("encoder=causal", "objective=next_token", "masking=none"))
    again, report = exported(model, tmp_path)
    assert report.outcomes("decoder") == ["new"] and not again.objective.heads.weight.any()
    assert report.outcomes("masking") == ["left out"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (("encoder=causal", "encoder.normalize=online"), "encoder.normalize=online"),
        (("encoder=lookahead40", "encoder.style=delayed"), "encoder.style=delayed"),
        (("encoder=buffered",), "encoder.style=buffered"),
        (("encoder=causal", "encoder.norms_per_mode=true"), "encoder.norms_per_mode=true"),
        (("encoder=causal", "encoder.normalize=none", "frontend.kind=sherpa"), "frontend.kind=sherpa"),
    ],
    ids=["online", "delayed", "buffered", "norms", "sherpa"],
)
def test_unsupported_settings_are_refused_without_writing(
    run_config: Compose, tmp_path: Path, override: tuple[str, ...], message: str
) -> None:
    write_checkpoint(ready(run_config(*override)), tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=message):
        export_nemo(tmp_path / "model.ckpt", tmp_path / "model.nemo")
    assert not (tmp_path / "model.nemo").exists()


@pytest.mark.parametrize("style", ["chunked", "regular"])
@pytest.mark.parametrize(
    "choices",
    [{}, {"a": {"right_context_ms": 0.0, "weight": 0.1}, "b": {"left_context_ms": 480, "right_context_ms": None}}],
    ids=["one", "several"],
)
def test_contexts_survive_a_round_trip(style: str, choices: dict[str, dict[str, float | None]]) -> None:
    config = EncoderConfig(d_model=8, num_heads=2, num_layers=1, subsampling_channels=2, style=style, contexts=choices)
    config.left_context_ms, config.right_context_ms = 320.0, 40.0
    encoder = FastConformer(config)
    exported_contexts = nemo_contexts(encoder.default_context, encoder.choices)
    read = contexts(ConfigSection("encoder", exported_contexts), encoder.frame_ms, TransferReport(NEST))
    config.contexts = read["encoder.contexts"]
    again = FastConformer(config)
    assert (read["encoder.left_context_ms"], read["encoder.right_context_ms"]) == (320.0, 40.0)
    assert read["encoder.style"] == style
    assert set(again.choices.by_name.values()) >= set(encoder.choices.by_name.values())
    assert (
        exported_contexts["att_context_probs"] is None
        if not choices
        else sum(exported_contexts["att_context_probs"]) == 1
    )
