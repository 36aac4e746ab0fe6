"""Weights of one architecture in another: exact conversions are exact, and all conversions are reported."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
import torch.nn.functional as F
from models import SHORT_PROBES
from omegaconf import DictConfig
from rich.console import Console
from runs import SHORT, environment

from streamnest.build import build_model
from streamnest.checkpoint.convert_convolution import BATCH_NORMS, Conversion, convert, place_kernel
from streamnest.checkpoint.transfer import transfer
from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.encoder.convolution import ConvolutionModule, FrozenBatchNorm
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.reporting.panels import show, transfer_panel
from streamnest.streaming.certificate import verify

OFFLINE = ("encoder=bidirectional", "masking=random")
FROZEN = ("encoder=lookahead40", "encoder.conv_norm=frozen_batch_norm")
Build = Callable[..., Pretraining]


@pytest.fixture
def build(run_config: Callable[..., DictConfig]) -> Build:
    """Builds models with different weights, statistics and mask embeddings."""

    def make(*overrides: str, seed: int = 1) -> Pretraining:
        torch.manual_seed(seed)
        model = build_model(run_config(*overrides))
        for name, value in model.state_dict().items():
            if name.startswith("encoder.layers.") and ".norm" in name and value.dtype == torch.float32:
                value.copy_(torch.rand_like(value) + 0.5)  # no norm at its initial weights or statistics
        model.input_norm.set_statistics(torch.full((80,), -8.0), torch.full((80,), 3.0))
        return model.eval()

    return make


def save(model: Pretraining, path: Path) -> Path:
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


def outcomes(report: TransferReport) -> dict[str, str]:
    return {part.name: part.outcome for part in report.parts}


def reasons(report: TransferReport) -> dict[str, str]:
    return {part.name: part.reason for part in report.parts}


def randomized(module: ConvolutionModule) -> ConvolutionModule:
    for name, value in module.state_dict().items():
        if value.dtype.is_floating_point:
            value.copy_(torch.rand_like(value) + 0.5 if "norm" in name else torch.randn_like(value))
    return module.double().eval()


@pytest.mark.parametrize(
    ("past", "size", "new_past", "expected"),
    [
        (2, 5, 4, [0, 0, 1, 2, 3]),
        (2, 3, 2, [1, 2, 3]),
        (2, 7, 6, [0, 0, 0, 0, 1, 2, 3]),
        (4, 5, 2, [3, 4, 5, 0, 0]),
        (4, 9, 4, [1, 2, 3, 4, 5, 0, 0, 0, 0]),
        (2, 7, 3, [0, 1, 2, 3, 4, 5, 0]),
        (2, 3, 1, [2, 3, 4]),
        (4, 2, 1, [4, 5]),
    ],
    ids=["to causal", "shorter", "longer", "to symmetric", "all past fits", "wider", "narrower", "even"],
)
def test_taps_keep_their_distance_from_the_current_frame(
    past: int, size: int, new_past: int, expected: list[int]
) -> None:
    kernel = torch.arange(1.0, 6.0).expand(3, 1, 5)
    assert place_kernel(kernel, past, size, new_past).tolist() == [[expected]] * 3


def test_adding_future_taps_preserves_the_response_to_a_constant() -> None:
    kernel = torch.randn(3, 1, 5, dtype=torch.float64)
    moved = place_kernel(kernel, 2, 5, 4, "current")
    assert torch.equal(moved[..., 2:4], kernel[..., :2])
    assert torch.allclose(moved.sum(-1), kernel.sum(-1))


def test_a_causal_kernel_fits_into_a_symmetric_convolution_exactly() -> None:
    causal = randomized(ConvolutionModule(8, 5, "causal", "layer_norm"))
    symmetric = ConvolutionModule(8, 9, "symmetric", "layer_norm").double().eval()
    state, changed = convert(causal.state_dict(), causal.past, symmetric, Conversion())
    symmetric.load_state_dict(state)
    assert set(changed) == {"depthwise.weight"} and "4 future taps are zero" in changed["depthwise.weight"]
    x = torch.randn(2, 20, 8, dtype=torch.float64)
    assert torch.allclose(symmetric(x, None)[0], causal(x, None)[0], atol=1e-12)


def test_a_frozen_batch_norm_uses_running_statistics_during_training() -> None:
    batch = randomized(ConvolutionModule(8, 5, "symmetric", "batch_norm"))
    frozen = ConvolutionModule(8, 5, "symmetric", "frozen_batch_norm").double()
    state, changed = convert(batch.state_dict(), batch.past, frozen, Conversion())
    del state["norm.num_batches_tracked"]
    frozen.load_state_dict(state)
    x = torch.randn(2, 20, 8, dtype=torch.float64)
    for mode in (True, False):
        assert torch.allclose(frozen.train(mode)(x, None)[0], batch(x, None)[0], atol=1e-12)
    assert not changed and {n for n, _ in frozen.norm.named_parameters()} == {"weight", "bias"}
    assert torch.equal(frozen.norm.running_mean, batch.norm.running_mean)


def convolved(module: ConvolutionModule, x: torch.Tensor) -> torch.Tensor:
    """Returns the input of the norm of a convolution module."""
    return module.depthwise(x.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_norm", BATCH_NORMS)
def test_a_converted_layer_norm_keeps_channel_means_and_deviations(batch_norm: str, bias: bool) -> None:
    torch.manual_seed(0)
    width = 512  # the more channels, the less the statistics of a frame differ from their mean
    batch = randomized(ConvolutionModule(width, 3, "causal", "batch_norm", bias=bias))
    layer = ConvolutionModule(width, 3, "causal", "layer_norm", bias=bias).double().eval()
    batch.norm.weight.data[::2] *= -1
    x = torch.randn(4, 500, width, dtype=torch.float64) + 1  # channels of other means than 0
    channels = convolved(batch, x).detach()
    batch.norm.running_mean.copy_(channels.mean((0, 1)))
    batch.norm.running_var.copy_(channels.var((0, 1)))
    state, _ = convert(batch.state_dict(), batch.past, layer, Conversion(batch_norm=batch_norm))
    layer.load_state_dict({k: v for k, v in state.items() if "running" not in k and "tracked" not in k})
    found, wanted = layer.norm(convolved(layer, x)), batch.norm(channels.transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(found.mean((0, 1)), wanted.mean((0, 1)), atol=0.02)
    assert torch.allclose(found.std((0, 1)), wanted.std((0, 1)), rtol=0.02)
    # Frame by frame too, signs included: moments alone would not tell a channel from its mirror image.
    likeness = F.cosine_similarity(
        found.flatten(0, 1) - found.mean((0, 1)), wanted.flatten(0, 1) - wanted.mean((0, 1)), 0
    )
    assert float(likeness.detach().min()) > 0.98


def test_an_unknown_conversion_is_refused() -> None:
    with pytest.raises(UserError, match="dropped, current"):
        Conversion(future_taps="mirrored")


@pytest.mark.parametrize("encoder", ["lookahead40", "bidirectional"])
def test_the_same_architecture_gives_identical_outputs_and_codes(
    build: Build, tmp_path: Path, speech_like: Callable[..., torch.Tensor], encoder: str
) -> None:
    source, target = build(f"encoder={encoder}"), build(f"encoder={encoder}", "masking=random", seed=2)
    audio, length = speech_like(1, 16000), torch.tensor([16000])
    assert not torch.equal(target(audio, length)[0], source(audio, length)[0])
    report = transfer(target, save(source, tmp_path / "a.ckpt"))
    assert torch.equal(target(audio, length)[0], source(audio, length)[0])
    assert torch.equal(target.masking.mask_embedding, source.masking.mask_embedding)
    assert torch.equal(target.objective.heads.weight, source.objective.heads.weight)
    assert not report.differences and report.counts["reshaped"] == report.counts["left out"] == 0
    assert {n for n, outcome in outcomes(report).items() if outcome == "new"} == {"train_counts", "seconds_seen"}


@pytest.mark.parametrize("overrides", [FROZEN, ("encoder=lookahead40",)], ids=["frozen batch norm", "layer norm"])
def test_an_offline_checkpoint_becomes_a_certified_streaming_model(
    build: Build, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    model = build(*overrides, seed=2)
    report = transfer(model, save(build(*OFFLINE), tmp_path / "a.ckpt"))
    found, why = outcomes(report), reasons(report)
    kernel = "encoder.layers.1.convolution.depthwise.weight"
    assert found[kernel] == "reshaped" and "4 older taps are zero, 4 future taps left out" in why[kernel]
    assert found["encoder.subsampling.out.weight"] == found["encoder.layers.0.attention.qkv.weight"] == "kept"
    assert found["encoder.layers.0.convolution.norm.num_batches_tracked"] == "left out"
    assert found["encoder.layers.0.convolution.norm.weight"] == ("kept" if overrides is FROZEN else "reshaped")
    assert found["encoder.layers.0.convolution.norm.running_mean"] == ("kept" if overrides is FROZEN else "left out")
    assert ("encoder.right_context_ms", None, 40.0) in report.differences
    assert verify(model, probes=SHORT_PROBES).passed


def test_a_streaming_checkpoint_becomes_an_offline_one(build: Build, tmp_path: Path) -> None:
    source, model = build("encoder=causal"), build(*OFFLINE, seed=2)
    report = transfer(model, save(source, tmp_path / "a.ckpt"))
    for old, new in zip(source.encoder.layers, model.encoder.layers, strict=True):
        assert torch.equal(new.convolution.depthwise.weight[..., :5], old.convolution.depthwise.weight[..., 4:])
        assert not new.convolution.depthwise.weight[..., 5:].any()
        assert torch.equal(new.convolution.norm.weight, old.convolution.norm.weight)
    name = "encoder.layers.0.convolution.norm.running_var"
    assert outcomes(report)[name] == "new" and "no such statistics" in reasons(report)[name]


def test_mismatched_shapes_are_named_and_other_layers_kept(build: Build, tmp_path: Path) -> None:
    path = save(build("size.num_layers=3"), tmp_path / "a.ckpt")
    model = build("encoder.subsampling_factor=8", "encoder=causal", seed=2)
    report = transfer(model, path)
    found, why = outcomes(report), reasons(report)
    assert why["encoder.subsampling.out.weight"] == "shape (32, 160) in the checkpoint, (32, 80) in this run"
    assert found["encoder.subsampling.out.weight"] == found["encoder.subsampling.depthwise.1.weight"] == "new"
    assert found["encoder.subsampling.depthwise.0.weight"] == found["encoder.layers.1.attention.qkv.weight"] == "kept"
    assert found["encoder.layers.2.attention.qkv.weight"] == "left out"
    assert found["objective.heads.weight"] == found["quantizer.projection"] == "new"
    deeper = transfer(build("size.num_layers=4", seed=2), path)
    assert outcomes(deeper)["encoder.layers.2.norm_out.weight"] == "kept"
    assert outcomes(deeper)["encoder.layers.3.norm_out.weight"] == "new"


def test_heads_of_other_codes_are_new_although_their_shapes_agree(build: Build, tmp_path: Path) -> None:
    model = build("quantizer.seed=7", seed=2)
    before = model.objective.heads.weight.clone()
    report = transfer(model, save(build(), tmp_path / "a.ckpt"))
    assert torch.equal(model.objective.heads.weight, before)
    assert outcomes(report)["quantizer.codebooks"] == outcomes(report)["objective.heads.weight"] == "new"
    assert "quantizers differ" in reasons(report)["objective.heads.weight"]


def test_a_constant_mask_value_of_the_config_is_not_overwritten(build: Build, tmp_path: Path) -> None:
    model = build("masking.mask_value=0.5", seed=2)
    report = transfer(model, save(build(), tmp_path / "a.ckpt"))
    assert torch.equal(model.masking.mask_embedding, torch.full((80,), 0.5))
    assert outcomes(report)["masking.mask_embedding"] == "new"


def test_weights_of_another_subsampling_padding_are_kept_with_a_note(build: Build, tmp_path: Path) -> None:
    report = transfer(build("encoder.subsampling_padding=shifted", seed=2), save(build(), tmp_path / "a.ckpt"))
    assert "shifted" in reasons(report)["encoder.subsampling.first.weight"]
    assert outcomes(report)["encoder.subsampling.out.weight"] == "new"  # it pads frequency too: one band more


def test_an_encoder_without_any_matching_tensor_is_refused(build: Build, tmp_path: Path) -> None:
    path = save(build(), tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"(?s)no encoder tensor.*shape \(8, 1, 3, 3\) in the checkpoint"):
        transfer(build("size.d_model=48", "size.subsampling_channels=6"), path)


def test_a_foreign_checkpoint_is_refused(build: Build, tmp_path: Path) -> None:
    model = build()
    (tmp_path / "text.ckpt").write_text("hello")
    for name, message in (("text", "a text file"), ("nowhere", "no checkpoint at")):
        with pytest.raises(UserError, match=message):
            transfer(model, tmp_path / f"{name}.ckpt")
    model.config = {**model.config, "encoder": {**model.config["encoder"], "_target_": "os.system"}}
    with pytest.raises(UserError, match=r"os\.system"):
        transfer(model, save(model, tmp_path / "foreign.ckpt"))


def test_the_piped_panel_is_short_plain_text(build: Build, tmp_path: Path) -> None:
    report = transfer(build(*FROZEN, seed=2), save(build(*OFFLINE), tmp_path / "a.ckpt"))
    with (tmp_path / "panel.txt").open("w+") as file:
        show(transfer_panel(report), Console(file=file, width=60))
        file.seek(0)
        text = file.read()
    assert len(text.splitlines()) < 40 and "\x1b" not in text
    for words in ("kept", "reshaped", "left out", "a.ckpt", "batch_norm -> frozen_batch_norm", "same name and shape"):
        assert words in text, words


def test_the_offline_preset_computes_nest(build: Build) -> None:
    module = build(*OFFLINE).encoder.layers[0].convolution
    x = torch.randn(2, 20, 32)
    inner = F.glu(module.pointwise_in(x), dim=-1).transpose(1, 2)
    inner = F.conv1d(inner, module.depthwise.weight, module.depthwise.bias, padding=4, groups=32)
    inner = F.batch_norm(inner, module.norm.running_mean, module.norm.running_var, module.norm.weight, module.norm.bias)
    wanted = module.pointwise_out(F.silu(inner).transpose(1, 2))
    assert torch.allclose(module(x, None)[0], wanted, atol=1e-6)
    assert type(module.norm) is torch.nn.BatchNorm1d and not isinstance(module.norm, FrozenBatchNorm)


@pytest.mark.long
def test_a_run_starts_from_one_checkpoint_only(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "offline.ckpt"
    sizes = ("size.d_model=32", "size.num_layers=2", "size.num_heads=4", "size.subsampling_channels=16")
    save(build(*OFFLINE, *sizes, "quantizer.num_classes=1024"), path)
    words = (*FROZEN, *SHORT, f"init_from={path}", "trainer.max_steps=2", "trainer.val_check_interval=2")

    def command(*more: str) -> subprocess.CompletedProcess[str]:
        return processes.run("train.py", *words, *more, env=environment(tmp_path))

    done = command()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reshaped" in done.stdout and "step 1/2" in done.stdout
    continued = done.stdout.rpartition("continue:")[2]
    assert "ckpt_path=" in continued and "init_from" not in continued
    refused = command(f"ckpt_path={path}")
    assert refused.returncode == 2 and "give one of the two" in refused.stdout + refused.stderr


def test_heads_move_between_one_objective_and_two(build: Build, tmp_path: Path) -> None:
    both = build("objective=masked_next_token")
    for words in (("objective=masked",), ("objective=next_token",)):
        alone = build(*words, seed=2)
        found = outcomes(transfer(alone, save(both, tmp_path / "both.ckpt")))
        assert {found[name] for name in found if name.startswith("objective.")} == {"kept", "left out"}
        back = outcomes(transfer(build("objective=masked_next_token", seed=3), save(alone, tmp_path / "alone.ckpt")))
        assert {back[name] for name in back if name.startswith("objective.")} == {"kept", "new"}
        own = [name.removeprefix("objective.") for name, _ in alone.named_parameters() if name.startswith("objective.")]
        part = both.objective.get_submodule(words[0].removeprefix("objective="))
        assert own and all(torch.equal(part.get_parameter(n), alone.objective.get_parameter(n)) for n in own)


def test_a_report_lists_each_part_once_by_outcome() -> None:
    report = TransferReport(Path("a.ckpt"))
    for outcome, name in (("left out", "x.1.y"), ("kept", "b"), ("left out", "x.2.y"), ("kept", "b")):
        report.add(outcome, name, "reason")
    assert list(report.counts.items()) == [("kept", 1), ("left out", 2)]
    assert report.grouped("left out") == {"reason": {"x.*.y": 2}}
    assert list(report.table().columns[0].cells) == ["kept", "left out", "left out"]


def test_norms_of_the_offline_mode_begin_as_the_streaming_ones(build: Build, tmp_path: Path) -> None:
    path = save(build("encoder=lookahead40"), tmp_path / "shared.ckpt")
    report = transfer(model := build("encoder=lookahead40", "encoder.norms_per_mode=true", seed=2), path)
    layer = model.encoder.layers[1]
    assert torch.equal(layer.offline_norms.norm_in.weight, layer.norm_in.weight)
    assert torch.equal(layer.offline_norms.norm_depthwise.bias, layer.convolution.norm.bias)
    assert outcomes(report)["encoder.layers.1.offline_norms.norm_out.weight"] == "reshaped"
    layer.offline_norms.norm_in.weight.data.add_(1)
    both = save(model, tmp_path / "separate.ckpt")
    transfer(model := build("encoder=lookahead40", "encoder.norms_per_mode=true", seed=3), both)
    assert not torch.equal(model.encoder.layers[1].offline_norms.norm_in.weight, layer.norm_in.weight)
    assert (
        outcomes(transfer(build("encoder=lookahead40"), both))["encoder.layers.1.offline_norms.norm_in.weight"]
        == "left out"
    )
