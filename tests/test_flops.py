"""Training cost, compared with arithmetic by hand."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from streamnest.commands.flops import _left_out
from streamnest.encoder import EncoderConfig
from streamnest.flops import PlannedRun, TrainingCost, code_bytes, device_hours, predicted_share, training_cost
from streamnest.masking import RandomBlockMasking
from streamnest.objectives import MaskedPrediction

D, FRAMES, KERNEL, CLASSES, SECONDS = 64, 100, 9, 512, 8.0


def cost(layers: int, classes: int = CLASSES, masked: float = 0.0, **settings: bool) -> TrainingCost:
    sizes = {"d_model": D, "num_layers": layers, "num_heads": 4, "subsampling_channels": 8, "conv_kernel_size": KERNEL}
    config = EncoderConfig(subsampling_factor=8, right_context_ms=0.0, **sizes, **settings)
    return training_cost(config, classes, 1, SECONDS, masked)


def layer_forward() -> int:
    """Returns the FLOPs of one layer on one utterance."""
    feed_forwards = 2 * (2 * D * 4 * D)
    projections = D * 3 * D + D * D
    convolution = D * 2 * D + KERNEL * D + D * D
    products = 2 * FRAMES * (feed_forwards + projections + convolution)
    distances = 2 * FRAMES - 1
    positions = 2 * distances * D * D
    scores = 2 * FRAMES * (FRAMES + distances) * D
    values = 2 * FRAMES * FRAMES * D
    return products + positions + scores + values


def test_the_cost_of_a_layer_equals_arithmetic_by_hand() -> None:
    one, two = cost(1), cost(2)
    assert (two.forward - one.forward) * SECONDS == pytest.approx(layer_forward(), rel=1e-9)
    # Each product has two gradients; the position table is not a parameter, so its projection has one.
    backward = 2 * layer_forward() - 2 * (2 * FRAMES - 1) * D * D
    assert (two.backward - one.backward) * SECONDS == pytest.approx(backward, rel=1e-9)


def test_heads_cost_the_predicted_frames_only() -> None:
    none, half = cost(1), cost(1, masked=0.5)
    heads = 2 * (FRAMES // 2) * D * CLASSES
    assert (half.forward - none.forward) * SECONDS == pytest.approx(heads)
    assert (half.backward - none.backward) * SECONDS == pytest.approx(2 * heads)
    assert half.parameters - cost(1, classes=1).parameters == (D + 1) * (CLASSES - 1)


def test_activation_checkpointing_costs_one_forward_pass_of_the_layers() -> None:
    kept, again = cost(2), cost(2, activation_checkpointing=True)
    assert again.forward == kept.forward
    assert (again.backward - kept.backward) * SECONDS == pytest.approx(2 * layer_forward(), rel=1e-9)


def test_predicted_share_counts_whole_masked_target_frames() -> None:
    objective = MaskedPrediction(8, 4)
    all_masked = RandomBlockMasking(80, mask_prob=1.0, block_size=8, allow_overlap=True, max_mask_ratio=1.0)
    none = RandomBlockMasking(80, mask_prob=0.0, block_size=8, allow_overlap=True)
    some = RandomBlockMasking(80, mask_prob=0.01, block_size=40, allow_overlap=True)
    assert predicted_share(all_masked, objective, 8, 16.0) == 1.0
    assert predicted_share(none, objective, 8, 16.0) == 0.0
    # A feature frame is masked with 1 - 0.99^40 = 0.33; target frames at the edges of masks are not predicted.
    assert 0.2 < predicted_share(some, objective, 8, 16.0) < 0.33
    # All other target frames are unmasked, except those at the edges.
    unmasked = MaskedPrediction(8, 16, unmasked_weight=1.0)
    assert predicted_share(none, unmasked, 8, 16.0) == 1.0
    assert 0.8 < predicted_share(some, unmasked, 8, 16.0) < 1.0


def test_the_cost_of_a_run_equals_arithmetic_by_hand() -> None:
    run = PlannedRun(TrainingCost(2e9, 4e9, 10**6), steps=1000, devices=8, batch_seconds=900.0)
    assert (run.step_hours, run.hours) == (2.0, 2000.0)
    assert run.flops == 6e9 * 2000 * 3600
    # 4.32e16 FLOPs at 1e12 FLOP/s take 43,200 s.
    assert device_hours(run.flops, peak_tflops=2.0, mfu=0.5) == 12.0
    assert run.cost.checkpoint_gb == 0.012


def test_the_branch_of_dual_mode_is_named_as_left_out() -> None:
    def sentences(offline: float, distillation: float) -> list[str]:
        weights = {"offline_weight": offline, "distillation_weight": distillation}
        return _left_out(OmegaConf.create({"task": {"name": "pretrain", "dual_mode": weights}}))

    assert "costs as much again" in sentences(1, 1)[0] and "one more forward pass" in sentences(0, 1)[0]
    assert sentences(0, 0) == []


def test_codes_use_the_smallest_integer_that_holds_them() -> None:
    # 90,000 frames of 40 ms per hour.
    assert [code_bytes(40.0, classes, 1) for classes in (256, 257, 65_537)] == [90e3, 180e3, 360e3]
    assert code_bytes(80.0, 500, 4) == 360e3
