"""Dual mode in pretraining: the offline branch predicts the same codes, and its distributions are targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import ready
from omegaconf import DictConfig

from streamnest.objectives import dual_mode
from streamnest.pretraining import Pretraining
from streamnest.streaming.probes.training import attach, make_batch

Compose = Callable[..., DictConfig]
DUAL = ("task.dual_mode.offline_weight=2", "task.dual_mode.distillation_weight=0.5", "encoder=causal")


def trained(cfg: DictConfig, audio: torch.Tensor) -> tuple[Pretraining, torch.Tensor, dict[str, float]]:
    """Makes a training step, and returns the model, its loss and the logged metrics."""
    model, logged = ready(cfg), {}
    attach(model)
    log: Any = lambda values, **_: logged.update({name: float(value) for name, value in values.items()})
    vars(model)["log_dict"] = log
    model.train_counts.fill_(1)
    batch = make_batch(audio, torch.tensor([audio.shape[1], audio.shape[1] - 4000]), 0, noisy=True)
    torch.manual_seed(3)
    return model, model.train().training_step(batch, 0), logged


@pytest.mark.parametrize("objective", ["masked", "masked_next_token"])
def test_the_loss_adds_the_offline_branch_and_its_divergence(
    run_config: Compose, speech_like: Any, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, audio = (f"objective={objective}", "size.dropout=0.1"), speech_like(2, 32000)
    _, plain, alone = trained(run_config(*words, "encoder=causal"), audio)
    model, loss, logged = trained(run_config(*words, *DUAL), audio)
    assert {name: logged[name] for name in alone} == alone, "metrics of the streaming branch"
    assert logged["train/divergence_offline"] > 0
    total = float(plain.detach()) + 2 * logged["train/loss_offline"] + 0.5 * logged["train/divergence_offline"]
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)
    loss.backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)
    monkeypatch.setattr(dual_mode, "MAX_LOGITS", 1)  # a frame at a time
    assert float(trained(run_config(*words, *DUAL), audio)[1].detach()) == pytest.approx(total, rel=1e-5)


def test_divergence_is_that_of_code_distributions_without_a_target_gradient(run_config: Compose) -> None:
    objective = ready(run_config("encoder=causal", "quantizer.num_codebooks=2")).objective
    encoded, offline = torch.randn(2, 1, 5, 32, generator=torch.Generator().manual_seed(0)).requires_grad_().unbind()
    context: Any = None
    parts, codes = {"divergence_masked"}, torch.zeros(1, 5, 2, dtype=torch.long)
    selected = torch.tensor([[True, False, True, True, False]])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(objective), "selected", lambda *_: {"masked": selected})
        patched.setattr(type(objective), "forward", lambda *_: {})
        patched.setattr(dual_mode, "replace", lambda *_, **__: None)
        result = dual_mode.compare_branches(objective, encoded, offline, codes, context, parts)["divergence_masked"]
    wanted, scores = (objective.logits(x)[selected].log_softmax(-1).detach() for x in (offline, encoded))
    assert float(result.loss_sum.detach()) == pytest.approx(
        float((wanted.exp() * (wanted - scores)).sum() / 2), rel=1e-5
    )
    assert result.count == 3
    gradients = torch.autograd.grad(result.loss_sum, (encoded, offline), allow_unused=True)
    assert gradients[0].abs().sum() > 0 and gradients[1] is None
