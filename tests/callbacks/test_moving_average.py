"""The average of the weights: its decay, and its place in checkpoints."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from hydra.utils import instantiate
from lightning import Callback
from test_interrupt import Send

from streamnest.callbacks import MovingAverage, StopOnSignal
from streamnest.callbacks.moving_average import averages_first


class Record(Callback):
    """Keeps the weights after each update."""

    def __init__(self):
        self.weights = []

    def on_train_batch_end(self, trainer, module, *_):
        self.weights.append(module.layer.weight.detach().clone())


def averaged(weights, limit):
    """Returns the average as the definition states it."""
    average = weights[0]
    for count, current in enumerate(weights[1:], 1):
        decay = min(limit, (1 + count) / (10 + count))
        average = decay * average + (1 - decay) * current
    return average


@pytest.mark.parametrize("limit", [0.999, 0.5])
def test_the_decay_rises_up_to_its_limit(fit, tmp_path, limit):
    record, average = Record(), MovingAverage(limit)
    trainer = fit(record, average, max_steps=20)
    weight = trainer.lightning_module.layer.weight
    torch.testing.assert_close(weight.detach(), averaged(record.weights, limit))
    assert not torch.equal(weight, record.weights[-1])


def test_a_checkpoint_on_a_signal_contains_the_last_average(fit, composed, tmp_path):
    nodes = composed("callbacks=ema", f"paths.output_dir={tmp_path}", "name=t", "preset=t").callbacks
    kept = [instantiate(node) for name, node in nodes.items() if name in ("ema", "stop_on_signal")]
    assert {type(callback) for callback in kept} == {MovingAverage, StopOnSignal}
    record = Record()
    fit(*averages_first([record, *kept, Send(signal.SIGTERM)]), max_steps=20)
    saved = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert len(record.weights) == saved["global_step"] == saved["averaging_state"]["n_averaged"] == 4
    assert saved["state_dict"]["steps_seen"] == 4  # buffers are not averaged
    torch.testing.assert_close(saved["state_dict"]["layer.weight"], averaged(record.weights, 0.999))
    assert torch.equal(saved["current_model_state"]["layer.weight"], record.weights[-1])


def test_validations_use_the_average_and_training_the_current_weights(fit, tmp_path):
    class Validated(Callback):
        def __init__(self):
            self.weights = []

        def on_validation_batch_start(self, trainer, module, *_):
            self.weights.append(module.layer.weight.detach().clone())

        def on_validation_end(self, trainer, module):
            assert torch.equal(module.layer.weight, record.weights[-1])

    record, validated, average = Record(), Validated(), MovingAverage()
    fit(*averages_first([record, validated, average]), max_steps=6, val_check_interval=3, limit_val_batches=1)
    assert len(validated.weights) == 2
    for steps, weight in zip((3, 6), validated.weights, strict=True):
        torch.testing.assert_close(weight, averaged(record.weights[:steps], 0.999))


def test_a_signal_in_the_last_validation_keeps_the_current_weights(fit, tmp_path):
    class SendInLast(Callback):
        def on_validation_start(self, trainer, module):
            if trainer.global_step == trainer.max_steps:
                os.kill(os.getpid(), signal.SIGTERM)

    record = Record()
    callbacks = averages_first([record, MovingAverage(), StopOnSignal(tmp_path), SendInLast()])
    trainer = fit(*callbacks, max_steps=4, val_check_interval=2, limit_val_batches=2)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(saved["current_model_state"]["layer.weight"], record.weights[-1])
    assert torch.equal(saved["state_dict"]["layer.weight"], trainer.lightning_module.layer.weight)
    assert not torch.equal(saved["state_dict"]["layer.weight"], record.weights[-1])
