"""Losses that regularize CTC: views of a batch, and what each term of the loss counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from recognizers import recognizer

from streamnest.data.batch import Batch
from streamnest.data.labels import Label
from streamnest.downstream.asr.ctc_losses import consistency_loss, divergence
from streamnest.errors import UserError
from streamnest.randomness import hash_id

VIEWS = ("task=ctc", "task.consistency_weight=0.2")


def batch_of(audio, texts, lengths=None):
    ids = [f"cut {row}" for row in range(len(texts))]
    lengths = torch.tensor(lengths or [audio.shape[1]] * len(texts))
    keys = torch.tensor([hash_id(name) for name in ids])
    return Batch(audio, audio, lengths, keys, 0, ids, 1.0, {}, [Label(text=text) for text in texts])


def part(batch, rows):
    return Batch(
        batch.clean[rows], batch.noisy[rows], batch.lengths[rows], batch.keys[rows], 0, batch.ids[rows], 1.0, {},
        batch.labels[rows],
    )  # fmt: skip


def random_log_probs(frames=5, tokens=4, seed=0):
    return torch.randn(frames, tokens, generator=torch.Generator().manual_seed(seed)).double().log_softmax(-1)


def training(model, batch, others=None):
    """Returns the loss of a training step and the metrics it logs; `others` are sums of other ranks to add."""
    logged = {}
    reduce = SimpleNamespace(reduce=lambda x, **_: x if others is None else others)
    model._trainer = SimpleNamespace(world_size=1 if others is None else 2, strategy=reduce, global_step=0)
    model.optimizers = lambda: SimpleNamespace(param_groups=[{"lr": 0.1}])
    model.log = lambda name, value, **_: logged.update({name: float(value)})
    model.log_dict = lambda values, **_: logged.update({name: float(value) for name, value in values.items()})
    return model.train().training_step(batch, 0), logged


def test_equal_views_are_consistent_and_the_target_gets_no_gradient():
    one, other = random_log_probs(seed=0).requires_grad_(), random_log_probs(seed=1).requires_grad_()
    assert consistency_loss(one, one.clone()).abs() < 1e-12 < consistency_loss(one, other)
    (expected,) = torch.autograd.grad(0.5 * (other.detach().exp() * (other.detach() - one)).sum(), one)
    (gradient,) = torch.autograd.grad(consistency_loss(one, other), one)
    assert torch.allclose(gradient, expected)
    assert torch.allclose(divergence(one, other), (one.exp() * (one - other)).sum())


def test_the_first_view_is_the_batch_and_the_second_one_differs(run_config, speech_like):
    model = recognizer(run_config(*VIEWS, "task.consistency_time_scale=1", "task.spec_augment.time_prob=0.05"))
    plain = recognizer(run_config("task=ctc", "task.spec_augment.time_prob=0.05"))
    batch = batch_of(speech_like(2, 16000), ["abc", "cab"])
    for one in (model, plain):
        one._trainer = SimpleNamespace(global_step=0)
    encoded, valid = model.train().encode(batch, 5)
    alone, frames = plain.train().encode(batch, 5)
    assert encoded.shape[0] == 4 and torch.equal(valid, frames.repeat(2))
    assert torch.allclose(encoded[:2], alone, atol=1e-5) and not torch.allclose(encoded[2:], alone, atol=0.1)
    assert len(model.eval().encode(batch, 5)[0]) == 2


def test_loss_is_the_mean_of_the_views_plus_their_weighted_consistency(run_config, speech_like):
    model = recognizer(run_config(*VIEWS, "task.spec_augment.time_prob=0.05"))
    batch = batch_of(speech_like(3, 16000), ["abc", "cab", None], [16000, 9000, 16000])
    loss, logged = training(model, batch)
    encoded, valid = model.encode(batch, 0)
    views = [model.loss_of(encoded[rows], valid[rows], batch) for rows in (slice(3), slice(3, 6))]
    outputs = model.outputs(encoded)
    pairs = [(outputs[row, :n], outputs[row + 3, :n]) for row, n in enumerate(valid[:2].tolist())]
    consistency = sum(consistency_loss(*pair) for pair in pairs) / 6
    assert logged["train/loss"] == pytest.approx(float(sum(nats for nats, _ in views)) / 12, rel=1e-5)
    assert logged["train/consistency"] == pytest.approx(float(consistency), rel=1e-4) and consistency > 0
    assert float(loss) == pytest.approx(logged["train/loss"] + 0.2 * logged["train/consistency"], rel=1e-5)


def test_gradients_of_two_processes_average_to_those_of_one(run_config, speech_like):
    model = recognizer(run_config(*VIEWS))
    batch = batch_of(speech_like(3, 16000), ["abc", "c", "ponm"], [16000, 16000, 12000])
    parts = [part(batch, rows) for rows in (slice(1), slice(1, 3))]

    def sums(one):
        terms, count = model.loss_terms(*model.encode(one, 0), one, [])
        return torch.stack([*(nats.detach() for _, nats in terms.values()), count, torch.tensor(1.0)])

    model._trainer = SimpleNamespace(global_step=0)
    total = sum(sums(one) for one in parts) if model.train() else None
    gradients = []
    for chosen, others in ((batch, None), *((one, total) for one in parts)):
        loss, _ = training(model, chosen, others)
        gradients.append(torch.autograd.grad(loss, model.head.weight)[0])
    assert torch.allclose(gradients[0], (gradients[1] + gradients[2]) / 2, atol=1e-6)


def test_a_batch_without_text_has_zero_terms_with_gradients(run_config, speech_like):
    model = recognizer(run_config(*VIEWS))
    loss, logged = training(model, batch_of(speech_like(2, 8000), [None, None]))
    loss.backward()
    assert loss == 0 and "train/loss" not in logged
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [((*VIEWS, "task.spec_augment.time_prob=0.5"), "task.consistency_time_scale=2.5 is above 1")],
)
def test_settings_that_contradict_each_other_are_refused(run_config, overrides, message):
    with pytest.raises(UserError, match=message):
        recognizer(run_config(*overrides))
