"""Dual mode of recognizers: losses of both branches, and the divergence of the streaming from the offline one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from recognizers import recognizer, transducer
from test_ctc_regularization import batch_of, training

from streamnest.downstream.asr.ctc_losses import divergence

OFFLINE, DISTILL = "task.dual_mode.offline_weight=1", "task.dual_mode.distillation_weight=0.5"
DUAL = (OFFLINE, DISTILL, "task.dual_mode.delay_ms=80", "size.dropout=0.1", "encoder=causal")


def build(run_config, task, *words):
    return (recognizer if task == "ctc" else transducer)(run_config(f"task={task}", *words))


@pytest.mark.parametrize("task", ["ctc", "rnnt"])
def test_the_streaming_loss_is_that_of_training_without_dual_mode(run_config, speech_like, task):
    batch = batch_of(speech_like(3, 16000), ["abc", "cab", None], [16000, 12000, 16000])
    losses = []
    for words in (("size.dropout=0.1", "encoder=causal"), DUAL):
        torch.manual_seed(1)
        loss, logged = training(model := build(run_config, task, *words), batch)
        losses.append(logged["train/loss"])
    assert losses[0] == losses[1] and model.unusable == {"without text": 1}
    assert {"train/loss_offline", "train/divergence_offline"} <= logged.keys()
    total = logged["train/loss"] + logged["train/loss_offline"] + 0.5 * logged["train/divergence_offline"]
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)
    loss.backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)
    assert "divergence from offline, 80 ms later" in dict(model.describe())["dual mode"]


@pytest.mark.parametrize("task", ["ctc", "rnnt"])
def test_the_divergence_has_no_gradient_in_the_offline_branch(run_config, speech_like, task):
    model = build(run_config, task, *DUAL, "encoder.norms_per_mode=true").train()
    model._trainer = SimpleNamespace(global_step=0)
    batch = batch_of(speech_like(2, 16000), ["abc", "cab"])
    encoded, valid, offline = model.encode_both(batch)
    terms, _ = model.loss_terms(encoded, valid, batch, [], offline)
    layer = model.encoder.layers[0]
    weights = [layer.offline_norms.norm_out.weight, layer.norm_out.weight]

    def gradients(name):
        return torch.autograd.grad(terms[name][1], weights, allow_unused=True, retain_graph=True)

    unused, used = gradients("divergence_offline")
    assert unused is None and used.abs().sum() > 0
    used, unused = gradients("loss_offline")
    assert unused is None and used.abs().sum() > 0


def test_without_an_offline_loss_the_branch_has_no_graph(run_config, speech_like):
    model = build(run_config, "ctc", DISTILL, "encoder=causal").train()
    model._trainer = SimpleNamespace(global_step=0)
    encoded, _, offline = model.encode_both(batch_of(speech_like(1, 16000), ["abc"]))
    assert encoded.requires_grad and not offline.requires_grad
    assert set(training(model, batch_of(speech_like(1, 16000), ["abc"]))[1]) >= {"train/divergence_offline"}


def test_targets_of_ctc_are_frames_of_the_offline_branch_later(run_config, speech_like):
    model = build(run_config, "ctc", *DUAL, "task.consistency_weight=0.2").train()
    model._trainer = SimpleNamespace(global_step=0)
    batch = batch_of(speech_like(3, 16000), ["abc", "cab", None], [16000, 12000, 16000])
    encoded, valid, offline = model.encode_both(batch)
    terms, _ = model.loss_terms(encoded, valid, batch, [], offline)
    target, outputs = model.log_probs(offline), model.log_probs(encoded)
    pairs = [(target[row, : n - 2], outputs[row, 2:n]) for row, n in enumerate(valid.tolist()) if row % 3 != 2]
    expected = sum(divergence(*pair).detach() for pair in pairs) / 2
    assert float(terms["divergence_offline"][1].detach()) == pytest.approx(float(expected), rel=1e-4)


@torch.no_grad()
def test_divergence_of_a_transducer_is_the_mean_over_prefixes(run_config):
    model = build(run_config, "rnnt", "encoder=causal")
    target, frames = torch.randn(2, 2, 6, model.settings.joiner_dim, generator=torch.Generator().manual_seed(0))
    lengths, texts = torch.tensor([6, 4]), [[1, 2, 3], [4]]
    both = [model.divergence(target, frames, lengths, texts, [True, True])]
    model.settings.max_scores = 1  # one row at a time
    both.append(model.divergence(target, frames, lengths, texts, [True, True]))
    expected = 0.0
    for row, text in enumerate(texts):
        predicted = model.head._predicted([text], target.device)[1]
        scores = [
            model.head.join(x[row, : lengths[row], None], predicted).log_softmax(-1).flatten(0, 1)
            for x in (target, frames)
        ]
        expected += float(divergence(*scores)) / (len(text) + 1)
    assert [float(x) for x in both] == pytest.approx([expected] * 2, rel=1e-4)
    assert float(model.divergence(frames, frames, lengths, texts, [True, True])) == pytest.approx(0, abs=1e-4)
    assert model.divergence(target, frames, lengths - 6, texts, [True, False]) == 0
