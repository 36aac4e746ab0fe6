"""Terms of the CTC training loss: views of a batch, intermediate layers, smoothed labels and a teacher."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from recognizers import recognizer

from streamnest.build import build_model
from streamnest.checkpoint.loading import load_model, write_checkpoint
from streamnest.checkpoint.recognizer_teacher import load_recognizer_teacher
from streamnest.config.tasks import CTCConfig, SpecAugmentConfig
from streamnest.data.batch import Batch
from streamnest.data.labels import Label
from streamnest.downstream.asr.ctc_losses import consistency_loss, ctc_loss, divergence, smoothing_loss
from streamnest.downstream.asr.ctc_settings import intermediate_layers, with_time_masks
from streamnest.downstream.asr.teacher import Teacher
from streamnest.encoder.dropout import Dropout
from streamnest.encoder.layer_outputs import recorded
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
    model._over_ranks = lambda x: x if others is None else others
    model._trainer = SimpleNamespace(world_size=1 if others is None else 2, global_step=0)
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


def test_the_second_view_differs_from_the_batch(run_config, speech_like):
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


def test_loss_is_the_mean_of_views_plus_weighted_consistency(run_config, speech_like):
    model = recognizer(run_config(*VIEWS, "task.spec_augment.time_prob=0.05"))
    batch = batch_of(speech_like(3, 16000), ["abc", "cab", None], [16000, 9000, 16000])
    loss, logged = training(model, batch)
    encoded, valid = model.encode(batch, 0)
    views = [model.loss_of(encoded[rows], valid[rows], batch) for rows in (slice(3), slice(3, 6))]
    outputs = model.outputs(encoded)
    pairs = [(outputs[row, :n], outputs[row + 3, :n]) for row, n in enumerate(valid[:2].tolist())]
    consistency = sum(consistency_loss(*pair) for pair in pairs) / 6
    assert logged["train/loss"] == pytest.approx(float(sum(nats.detach() for nats, _ in views)) / 12, rel=1e-5)
    assert logged["train/consistency"] == pytest.approx(float(consistency.detach()), rel=1e-4) and consistency > 0
    assert float(loss.detach()) == pytest.approx(logged["train/loss"] + 0.2 * logged["train/consistency"], rel=1e-5)


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


def test_weights_of_zero_leave_the_plain_loss(run_config, speech_like):
    off = ("task.intermediate_layers=[1]", "task.intermediate_weight=0", "task.teacher=x", "task.teacher_weight=0")
    model = recognizer(run_config("task=ctc", *off))
    batch = batch_of(speech_like(2, 16000), ["abc", None])
    loss, logged = training(model, batch)
    nats, tokens = model.loss_of(*model.encode(batch, 0), batch)
    assert torch.equal(loss, nats / tokens) and set(logged) == {"train/loss", "train/lr", "train/hours"}
    model.on_fit_start()  # no teacher is needed


@pytest.mark.parametrize("recompute", [False, True])
def test_the_head_is_applied_to_intermediate_layers(run_config, speech_like, recompute):
    delayed = ("encoder=lookahead80", "encoder.style=delayed")
    layers = ("task.intermediate_layers=[1]", "task.intermediate_weight=0.25", "task.spec_augment.time_prob=0.05")
    model = recognizer(run_config("task=ctc", *delayed, *layers))
    model.encoder.activation_checkpointing = recompute
    batch = batch_of(speech_like(2, 16000), ["abc", "cab"], [16000, 12000])
    loss, logged = training(model, batch)
    with recorded([model.encoder.layers[0]]) as outputs:
        _, valid = model.encode(batch, 0)
    targets = [model.tokenizer.encode(label.text) for label in batch.labels]
    nats, tokens = ctc_loss(model.log_probs(outputs[0][:, 2:]), valid, targets, [True, True])
    assert logged["train/intermediate"] == pytest.approx(float((nats / tokens).detach()), rel=1e-5)
    assert float(loss.detach()) == pytest.approx(0.75 * logged["train/loss"] + 0.25 * logged["train/intermediate"])
    alone = torch.autograd.grad(nats, model.encoder.layers[0].norm_out.weight)[0]
    assert torch.autograd.grad(loss, model.encoder.layers[0].norm_out.weight)[0].norm() > 0.1 * alone.norm() / tokens


def test_losses_of_several_layers_are_averaged(run_config, speech_like):
    model = recognizer(run_config("task=ctc", "size.num_layers=3", "task.intermediate_layers=[1,2]"))
    batch = batch_of(speech_like(2, 16000), ["abc", "cab"], [16000, 12000])
    _, logged = training(model, batch)
    layers = [model.encoder.layers[number] for number in (0, 1)]
    with recorded(layers) as outputs:
        _, valid = model.encode(batch, 0)
    targets = [model.tokenizer.encode(label.text) for label in batch.labels]
    losses = [ctc_loss(model.log_probs(x), valid, targets, [True, True]) for x in outputs]
    mean = sum(float((nats / tokens).detach()) for nats, tokens in losses) / 2
    assert logged["train/intermediate"] == pytest.approx(mean, rel=1e-5)


def test_smoothing_is_zero_for_uniform_frames_only(run_config, speech_like):
    uniform = torch.full((3, 5), -math.log(5))
    assert smoothing_loss(uniform).abs() < 1e-6
    model = recognizer(run_config("task=ctc", "task.label_smoothing=0.05", "task.spec_augment.time_prob=0"))
    batch = batch_of(speech_like(2, 16000), ["abc", None], [9000, 16000])
    loss, logged = training(model, batch)
    encoded, valid = model.encode(batch, 0)
    outputs = model.outputs(encoded)[0, : valid[0]]
    even = torch.full_like(outputs, -math.log(outputs.shape[1]))
    assert logged["train/smoothing"] == pytest.approx(float(divergence(even, outputs).detach()) / 3, rel=1e-4)
    assert float(loss.detach()) == pytest.approx(0.95 * logged["train/loss"] + 0.05 * logged["train/smoothing"])


@pytest.mark.parametrize("padding", ["aligned", "shifted"])
def test_a_delayed_student_reproduces_the_teacher_later(run_config, speech_like, padding):
    model = recognizer(run_config("task=ctc", "encoder=bidirectional", f"encoder.subsampling_padding={padding}"))
    batch = batch_of(speech_like(2, 16000), ["abc", "cab"], [16000, 12000])
    teacher = Teacher(model, delay=2)
    target, valid = teacher.log_probs(batch)
    assert torch.equal(teacher.log_probs(replace(batch, noisy=torch.randn(2, 16000)))[0], target)
    covering = target[:, model.encoder.target_shift :]
    late = torch.cat([torch.randn(2, 2, target.shape[2]).log_softmax(-1), covering], dim=1)[:, : target.shape[1]]
    early = torch.cat([target[:, 2:], target[:, -2:]], dim=1)
    usable = torch.tensor([True, True])
    losses = [float(teacher.loss(x, valid, batch, usable, first=0)) for x in (late, early, target)]
    assert abs(losses[0]) < 1e-4 < 0.1 < min(losses[1:])
    # Each view counts; padding frames and unusable rows do not.
    both = torch.cat([early, early])
    assert float(teacher.loss(both, valid, batch, usable, 0)) == pytest.approx(2 * losses[1])
    single = float(teacher.loss(early, valid, batch, torch.tensor([True, False]), 0))
    assert 0 < single < losses[1]
    changed = early.clone()
    changed[1, valid[1] :] = late[0, valid[1] :]
    assert float(teacher.loss(changed, valid, batch, usable, 0)) == losses[1]
    changed[1] = late[1]
    assert float(teacher.loss(changed, valid, batch, torch.tensor([True, False]), 0)) == single


@pytest.fixture
def stored_teacher(run_config, tmp_path):
    path = tmp_path / "teacher.ckpt"
    write_checkpoint(recognizer(run_config("task=ctc", "encoder=dynamic")), path)
    return path


def test_a_teacher_is_no_part_of_its_student(run_config, speech_like, stored_teacher, tmp_path):
    words = ("task=ctc", "encoder=causal", "task.teacher_delay_ms=80", f"task.teacher={stored_teacher}")
    student = recognizer(run_config(*words))
    names, batch = list(student.state_dict()), batch_of(speech_like(2, 16000), ["abc", "cab"])
    with pytest.raises(UserError, match="is not loaded"):
        student.on_fit_start()
    load_recognizer_teacher(student)
    student.on_fit_start()
    teacher = student.teacher.model
    loss, logged = training(student, batch)
    loss.backward()
    assert student.teacher.delay == 2 and logged["train/distillation"] > 0
    assert float(loss.detach()) == pytest.approx(logged["train/loss"] + logged["train/distillation"])
    assert not teacher.training and all(weight.grad is None for weight in teacher.parameters())
    assert list(student.state_dict()) == names and copy.deepcopy(student).teacher is student.teacher
    write_checkpoint(student, tmp_path / "student.ckpt")
    stored_teacher.unlink()
    loaded = load_model(tmp_path / "student.ckpt")
    assert loaded.teacher is None and loaded.settings.teacher == str(stored_teacher)


def test_a_teacher_that_does_not_fit_is_refused(run_config, stored_teacher, tmp_path):
    student = recognizer(run_config("task=ctc", "encoder=causal", f"task.teacher={stored_teacher}"))
    speaker, frame_ms, labels = tmp_path / "speaker.ckpt", student.encoder.frame_ms, student.labels
    cfg = run_config("task=speaker", "task.embedding_size=8")
    write_checkpoint(build_model(cfg, labels={"speakers": ["a", "b"]}), speaker)

    def refused(message, **settings):
        student.settings = CTCConfig(**{"teacher": str(stored_teacher), **settings})
        with pytest.raises(UserError, match=message):
            load_recognizer_teacher(student)

    refused("task.teacher_delay_ms=50.*nearest legal values are 40 and 80", teacher_delay_ms=50.0)
    refused("task.teacher: no checkpoint at /missing.ckpt", teacher="/missing.ckpt")
    refused("task.teacher= is empty", teacher="")
    refused("is of task=speaker", teacher=str(speaker))
    student.encoder.frame_ms = 80.0
    refused("choose the same encoder.subsampling_factor")
    student.encoder.frame_ms, student.labels = frame_ms, {**labels, "symbols": ["a"]}
    refused("another vocabulary")


def test_dropout_is_active_in_every_module(run_config, speech_like, monkeypatch):
    model = recognizer(run_config("task=ctc", "size.dropout=0.25"))
    rates, sample = [], Dropout.sample
    monkeypatch.setattr(Dropout, "sample", lambda self, x: rates.append(self.rate) or sample(self, x))
    attention = []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: attention.append(kwargs["dropout_p"]) or real(*args, **kwargs),
    )
    training(model, batch_of(speech_like(1, 16000), ["abc"]))
    layers = len(model.encoder.layers)
    # After the subsampling; in each layer four residual branches, two feed-forward modules, and attention weights.
    assert len(rates) + len(attention) == 1 + 7 * layers and set(rates + attention) == {0.25}


def test_settings_that_contradict_each_other_are_refused():
    masks = SpecAugmentConfig(time_prob=0.5)
    assert with_time_masks(CTCConfig(spec_augment=masks)).spec_augment.time_prob == 0.5
    with pytest.raises(UserError, match=r"task.consistency_time_scale=2.5 is above 1"):
        with_time_masks(CTCConfig(spec_augment=masks, consistency_weight=0.2))
    for layers, frozen, message in (
        ([4], False, "4 is not below the last of 4 layers: choose from 1 to 3"),
        ([1, 1], False, "names a layer twice"),
        ([1], True, "set freeze=null"),
    ):
        with pytest.raises(UserError, match=message):
            intermediate_layers(CTCConfig(intermediate_layers=layers), 4, frozen)
