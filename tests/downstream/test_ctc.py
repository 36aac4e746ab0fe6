from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from recognizers import recognizer

from streamnest.data.batch import Batch
from streamnest.data.labels import Label
from streamnest.downstream.asr.ctc_losses import ctc_loss
from streamnest.downstream.spec_augment import SpecAugment
from streamnest.errors import UserError
from streamnest.frontier.evaluation import _recognize
from streamnest.randomness import random_keys


def batch_of(audio, texts):
    lengths = torch.tensor([audio.shape[1]] * len(texts))
    labels = [Label(text=text) for text in texts]
    return Batch(audio, audio, lengths, random_keys(len(texts)), 0, list(map(str, range(len(texts)))), 1.0, {}, labels)


def test_unusable_texts_are_counted_and_left_out_of_the_loss(run_config, speech_like, caplog):
    model = recognizer(run_config("task=ctc"))
    audio = speech_like(4, 16000)
    encoded, valid = model(audio, torch.tensor([16000] * 4))
    log_probs, frames = model.log_probs(encoded), int(valid[0])
    # Equal adjacent tokens need a blank between them: half as many fit.
    texts = ["abc", "a" * (frames // 2 + 2), None, "ab" * frames]
    loss, tokens = model.loss_of(encoded, valid, batch_of(audio, texts))
    alone, count = ctc_loss(log_probs[:1], valid[:1], [model.tokenizer.encode("abc")], [True])
    assert model.unusable == {"longer text than frames": 2, "without text": 1}
    assert torch.isfinite(loss) and torch.equal(loss, alone) and tokens == count == 3
    assert caplog.text.count("left out of the loss") == 2


def test_the_longest_text_that_fits_is_trained_on(run_config, speech_like):
    model = recognizer(run_config("task=ctc"))
    audio = speech_like(1, 16000)
    encoded, valid = model(audio, torch.tensor([16000]))
    text = ("ab" * int(valid[0]))[: int(valid[0])]
    loss, _ = model.loss_of(encoded, valid, batch_of(audio, [text]))
    assert not model.unusable and 0 < float(loss) < float("inf")


def test_a_batch_without_usable_text_has_zero_loss_with_gradients(run_config, speech_like):
    model = recognizer(run_config("task=ctc"))
    audio = speech_like(1, 8000)
    encoded, valid = model(audio, torch.tensor([8000]))
    loss, tokens = model.loss_of(encoded, valid, batch_of(audio, [None]))
    loss.backward()
    assert loss == 0 and tokens == 0 and model.head.weight.grad is not None


def test_an_unknown_speaker_is_neither_seen_nor_unseen(run_config, speech_like):
    batch = batch_of(speech_like(3, 16000), ["abc"] * 3)
    batch.labels = [Label(text="abc", speaker=name) for name in ("ann", "bob", None)]
    data = SimpleNamespace(is_seen=lambda label: label.speaker and label.speaker == "ann")
    assert [line[-1] for line in _recognize(recognizer(run_config("task=ctc")), data, batch)] == [True, False, None]


def test_frames_past_the_length_are_ignored(run_config):
    model = recognizer(run_config("task=ctc"))
    scores = torch.eye(4)[torch.tensor([[1, 2, 3, 3], [2, 2, 1, 1]])]
    assert model.decode(scores, torch.tensor([2, 4]), model.start(2))[0] == [[1, 2], [2, 1]]


def test_masks_depend_on_the_key_and_exist_in_training_only():
    augment = SpecAugment(80, time_prob=0.02, time_frames=10, bands=2, band_width=20)
    features, frames = torch.ones(6, 80, 400), torch.full((6,), 400)
    keys = torch.arange(6)
    masked = augment(features, frames, keys) == 0
    assert torch.equal(augment(features[2:3], frames[2:3], keys[2:3]) == 0, masked[2:3])
    assert len({row.sum().item() for row in masked}) > 3
    whole_bands, whole_frames = masked.all(2).sum(1), masked.all(1).sum(1)
    assert (whole_bands <= 40).all() and (whole_bands > 0).any()
    assert whole_frames.float().mean() == pytest.approx(400 * (1 - 0.98**10), rel=0.4)
    assert torch.equal(augment.eval()(features, frames, keys), features)


def test_frequency_masks_have_every_width_and_reach_both_ends():
    kept = SpecAugment(10, time_prob=0, time_frames=2, bands=1, band_width=3).kept(random_keys(2000))
    widths = torch.bincount((~kept).sum(1), minlength=4)
    assert len(widths) == 4 and (widths > 400).all()
    assert (~kept)[:, [0, -1]].sum(0).min() > 150


def test_masks_wider_than_the_features_are_refused():
    with pytest.raises(UserError, match="band_width=90"):
        SpecAugment(80, 0.01, 10, 2, 90)
