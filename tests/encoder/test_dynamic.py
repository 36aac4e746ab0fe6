"""encoder=dynamic: one checkpoint, trained with a random context per batch, that runs with any of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import SHORT_PROBES
from omegaconf import DictConfig

from streamnest.build import build_model
from streamnest.data.batch import Batch
from streamnest.encoder.context import Context
from streamnest.encoder.context_choices import ContextChoices
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.streaming.certificate import verify

Compose = Callable[..., DictConfig]
CHOICES = {"causal": {"right_context_ms": 0}, "wide": {"right_context_ms": 80, "weight": 3}}


@pytest.fixture
def model(run_config: Compose) -> Pretraining:
    torch.manual_seed(0)
    return build_model(run_config("encoder=dynamic")).eval()


def test_contexts_are_sampled_by_weight_from_a_number() -> None:
    choices = ContextChoices(CHOICES, 40.0, "chunked")
    drawn = [choices.sample(number) for number in range(2000)]
    assert drawn == [choices.sample(number) for number in range(2000)]
    assert abs(Counter(drawn)[Context(None, 2)] / 2000 - 0.75) < 0.03


def test_the_context_of_a_step_depends_on_the_step_only(model: Pretraining) -> None:
    def context(step: int) -> Context:
        audio = torch.zeros(1, 160)
        none = torch.zeros(1, dtype=torch.long)
        batch = Batch(audio, audio, none, none, step, ["a"], 0.0)
        model.on_train_batch_start(batch, 0)
        return model.encoder.context

    forwards = [context(step) for step in range(40)]
    assert forwards[::-1] == [context(step) for step in reversed(range(40))]
    assert set(forwards) == set(model.encoder.choices.by_name.values())
    model.on_validation_epoch_start()
    assert model.encoder.context == model.encoder.default_context


def test_every_context_of_a_dynamic_encoder_is_certified(model: Pretraining) -> None:
    seen = {}
    for name in model.encoder.each_context():
        certificate = verify(model, probes=SHORT_PROBES)
        assert certificate.passed, (name, [check for check in certificate.checks if not check.passed])
        seen[name] = certificate.latency.latency_mean_ms
    assert (seen["causal"], seen["lookahead40"], seen["limited3200"]) == (22.5, 42.5, 22.5)
    assert model.encoder.context == model.encoder.default_context


def test_an_unknown_context_is_refused_with_the_known_names(model: Pretraining, run_config: Compose) -> None:
    with pytest.raises(UserError, match=r"lookahead41.*causal, lookahead40"):
        model.encoder.use_context("lookahead41")
    with pytest.raises(UserError, match="only encoder=dynamic"):
        build_model(run_config("encoder=causal")).encoder.use_context("causal")


def test_a_context_between_frames_is_refused_with_the_remedy(run_config: Compose) -> None:
    with pytest.raises(UserError, match=r"nearest legal values are 0 and 80 ms.*~encoder.contexts.lookahead40"):
        build_model(run_config("encoder=dynamic", "encoder.subsampling_factor=8"))
    with pytest.raises(UserError, match="one must be above 0"):
        ContextChoices({"causal": {"weight": 0}}, 40.0, "chunked")
    with pytest.raises(UserError, match=r"encoder\.contexts\.b\.weight=-1 must be at least 0"):
        ContextChoices({"a": {}, "b": {"weight": -1}}, 40.0, "chunked")


def test_a_checkpoint_runs_with_the_named_context(model: Pretraining, tmp_path: Path) -> None:
    from streamnest.checkpoint.loading import load_pretrained

    path = tmp_path / "dynamic.ckpt"
    torch.save({"state_dict": model.state_dict(), "streamnest": {"config": model.config}}, path)
    assert load_pretrained(path, "causal").latency.latency_mean_ms == 22.5
    assert load_pretrained(path).latency.latency_mean_ms == 62.5
