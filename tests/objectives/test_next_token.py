"""Target frames of next-token prediction: they lie beyond the receptive field and can be learned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ready
from omegaconf import DictConfig
from torch import Tensor, nn

from streamnest.errors import UserError
from streamnest.objectives import MaskedAndNextToken, NextTokenPrediction, PredictionContext
from streamnest.objectives import base as objectives_base
from streamnest.pretraining import Pretraining

# CI has a budget of 20 minutes; `make test-all` runs these.
pytestmark = pytest.mark.long

Compose = Callable[..., DictConfig]
Audio = Callable[..., Tensor]
ENCODERS = {
    "causal": ["encoder=causal"],
    "lookahead40": ["encoder=lookahead40"],
    "lookahead80": ["encoder=lookahead80"],
    "delayed": ["encoder=lookahead40", "encoder.style=delayed"],
    "regular": ["encoder=lookahead40", "encoder.style=regular", "encoder.allow_future_leak=true"],
    "shifted": ["encoder=lookahead40", "encoder.subsampling_padding=shifted"],
}


def unmasked_context(end: Tensor, lengths: list[int], stack: int = 1, **kwargs: Tensor) -> PredictionContext:
    """Returns the context of rows without masks."""
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.bool)
    return PredictionContext(mask, torch.tensor(lengths), stack, end, **kwargs)


def outputs(model: Pretraining, audio: Tensor) -> Tensor:
    """Returns outputs by target frame, `(T', d)`."""
    return model(audio, torch.tensor([audio.shape[1]]))[0][0, model.encoder.target_shift :]


@pytest.mark.parametrize("distance", ["nearest", "uniform"])
@pytest.mark.parametrize("preset", ENCODERS)
def test_audio_of_predicted_frames_does_not_change_the_output(
    run_config: Compose, speech_like: Audio, preset: str, distance: str
) -> None:
    cfg = run_config(*ENCODERS[preset], "objective=next_token", f"objective.distance={distance}", "masking=none")
    model = ready(cfg).double()
    block = round(model.encoder.frame_ms * 16)
    audio = speech_like(1, 24 * block, dtype=torch.float64)
    before = outputs(model, audio)
    end = model.receptive_field_end(len(before))
    assert end is not None
    first = model.objective.first_targets(end)
    slack = []
    for frame in range(6, 12):
        moved = audio.clone()
        moved[0, first[frame] * block :] += 1.0
        assert torch.equal(outputs(model, moved)[frame], before[frame])
        moved[0, (first[frame] - 1) * block :] += 1.0
        slack.append(torch.equal(outputs(model, moved)[frame], before[frame]))
    # No nearer target would be possible: for every frame, or for the one with the longest look-ahead.
    assert not any(slack) if distance == "nearest" else not all(slack)


@pytest.mark.parametrize(("max_visible", "first"), [(0.0, [2, 3, 4]), (0.1, [1, 2, 3])])
def test_the_overlap_of_the_analysis_window_can_be_ignored(
    run_config: Compose, max_visible: float, first: list[int]
) -> None:
    model = ready(run_config("encoder=causal", "objective=next_token", f"objective.max_visible={max_visible}"))
    end = model.receptive_field_end(3)
    assert end is not None
    # The window ends 39 samples of 640 after its hop.
    assert end.tolist() == pytest.approx([1 + 39 / 640, 2 + 39 / 640, 3 + 39 / 640])
    assert model.objective.first_targets(end).tolist() == first


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    stack=st.sampled_from([1, 4]),
    chunk=st.integers(1, 4),
    offsets=st.integers(1, 5),
)
def test_no_frame_predicts_past_the_end_of_its_row(lengths: list[int], stack: int, chunk: int, offsets: int) -> None:
    frames = max(1, max(lengths) // stack)
    end = (torch.arange(frames) // chunk + 1.0) * chunk
    codes = torch.randint(7, (len(lengths), frames, 1))
    objective, encoded = NextTokenPrediction(8, 7, num_offsets=offsets), torch.randn(len(lengths), frames, 8)
    given_ = unmasked_context(end, lengths, stack)
    result = objective(encoded, codes, given_)["next_token"]
    wanted = [
        (int(end[t]) + k)
        for row, length in enumerate(lengths)
        for t in range(frames)
        for k in range(offsets)
        if int(end[t]) + k < length // stack
    ]
    assert int(result.count) == len(wanted) == int(result.targets.sum())
    for row, length in enumerate(lengths):
        codes[row, length // stack :] = 6 - codes[row, length // stack :]
    again = objective(encoded, codes, given_)["next_token"]
    assert torch.equal(again.loss_sum, result.loss_sum)


@pytest.mark.parametrize("end", [None, torch.tensor([9.0, 9.0, 9.0])], ids=["sees all", "too short"])
def test_without_targets_loss_and_gradients_are_zero(end: Tensor | None) -> None:
    objective, encoded = NextTokenPrediction(8, 7, 2), torch.randn(2, 3, 8, requires_grad=True)
    result = objective(encoded, torch.zeros(2, 3, 2, dtype=torch.long), unmasked_context(end, [3, 2]))["next_token"]
    result.loss_sum.backward()
    assert float(result.loss_sum) == 0.0 and int(result.count) == 0
    for tensor in (encoded, *objective.parameters()):
        assert tensor.grad is not None and not tensor.grad.any()


def test_a_periodic_sequence_is_learned() -> None:
    torch.manual_seed(0)
    objective, embedding = NextTokenPrediction(16, 5, 2, num_offsets=3), nn.Embedding(5, 16)
    codes = torch.stack([torch.arange(40) % 5, (2 * torch.arange(40)) % 5], dim=-1)[None]
    optimizer = torch.optim.Adam([*objective.parameters(), *embedding.parameters()], lr=0.02)
    for _ in range(120):
        encoded = embedding(codes[..., 0])
        result = objective(encoded, codes, unmasked_context(torch.arange(40) + 1.0, [40]))["next_token"]
        loss = result.loss_sum / result.count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.02
    assert {name: (d[0] == d[1]).item() for name, d in result.details.items()} == {
        f"offset{k}": True for k in (1, 2, 3)
    }
    assert [int(d[1]) for d in result.details.values()] == [39, 38, 37]


def test_loss_in_pieces_has_the_same_value_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, codes = NextTokenPrediction(8, 7, 2), torch.randint(7, (2, 12, 2))
    found = []
    for limit in (1 << 26, 100):
        monkeypatch.setattr(objectives_base, "_MAX_LOGITS", limit)
        encoded = torch.linspace(-1, 1, 192).view(2, 12, 8).requires_grad_()
        result = objective(encoded, codes, unmasked_context(torch.arange(12) + 1.0, [12, 9]))["next_token"]
        objective.zero_grad()
        result.loss_sum.backward()
        found.append((result.loss_sum.detach(), result.correct, encoded.grad, objective.outputs.weight.grad))
    for whole, pieces in zip(*found):
        torch.testing.assert_close(whole, pieces)


def test_frame_share_samples_by_key_in_training_only() -> None:
    objective = NextTokenPrediction(8, 7, num_offsets=2, frame_share=0.5).train()
    encoded, codes = torch.randn(4, 200, 8), torch.randint(7, (4, 200, 1))
    counts = []
    for key in (0, 0, 1):
        given_ = unmasked_context(torch.arange(200) + 1.0, [200] * 4, keys=torch.arange(4) + 100 * key)
        counts.append(objective(encoded, codes, given_)["next_token"])
    assert torch.equal(counts[0].loss_sum, counts[1].loss_sum)
    assert not torch.equal(counts[0].loss_sum, counts[2].loss_sum)
    whole = objective.eval()(encoded, codes, given_)["next_token"]
    assert float(counts[0].count / whole.count) == pytest.approx(0.5, abs=0.06)


def test_the_mixed_objective_is_the_weighted_sum_of_its_parts() -> None:
    both = MaskedAndNextToken(8, 7, unmasked_weight=0.5, masked_weight=0.8, next_token_weight=0.3)
    assert both.weights == {"masked": 0.8, "unmasked": 0.4, "next_token": 0.3}
    given_ = unmasked_context(torch.arange(6) + 1.0, [24], stack=4)
    given_.mask[0, 4:12] = True
    results = both(torch.randn(1, 6, 8), torch.randint(7, (1, 6, 1)), given_)
    assert {part: int(result.count) for part, result in results.items()} == {
        "masked": 2,
        "unmasked": 4,
        "next_token": 5 + 4 + 3 + 2,
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder=bidirectional", "objective=next_token"], "sees the whole utterance: choose a streaming one"),
        (["encoder=bidirectional", "objective=masked_next_token"], "sees the whole utterance: choose a streaming"),
        (["encoder.normalize=utterance", "objective=next_token"], "sees the whole utterance"),
        (["encoder=dynamic", "objective=next_token"], "encoder.contexts.full sees the whole utterance"),
        (["objective=next_token", "objective.num_offsets=0"], "num_offsets=0"),
        (["objective=next_token", "objective.distance=far"], "nearest or uniform"),
        (["objective=next_token", "objective.max_visible=1"], "max_visible"),
        (["objective=next_token", "objective.frame_share=0"], "frame_share"),
        (["objective=masked_next_token", "objective.masked_weight=0"], "masked_weight"),
        (["objective.unmasked_weight=-1"], "unmasked_weight"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_leave_nothing_to_predict_are_refused(
    run_config: Compose, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ready(run_config(*overrides))


def test_targets_follow_the_context_of_a_dynamic_encoder(run_config: Compose) -> None:
    model = ready(run_config("encoder=dynamic", "objective=masked_next_token"))
    found = {}
    for name in model.encoder.each_context():
        end = model.receptive_field_end(4)
        found[name] = None if end is None else end.floor().int().tolist()
    assert found["causal"] == [1, 2, 3, 4]
    assert found["lookahead40"] == [2, 2, 4, 4]
    assert found["full"] is None
