"""The last checkpoint contains the last step."""

from __future__ import annotations

import signal

import pytest
import torch
from test_interrupt import Send

from streamnest.callbacks import BestAndLast, StopOnSignal


def keep(folder):
    return BestAndLast(folder, save_last=True, save_on_train_epoch_end=False, enable_version_counter=False)


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


@pytest.mark.parametrize("steps", [6, 7, 8])
def test_the_last_step_is_saved_wherever_validations_fall(fit, tmp_path, steps):
    fit(keep(tmp_path), max_steps=steps, val_check_interval=4, limit_val_batches=1, enable_checkpointing=True)
    assert step_of(tmp_path / "last.ckpt") == steps


def test_with_accumulation_the_last_complete_step_is_saved(fit, tmp_path):
    settings = {"accumulate_grad_batches": 3, "val_check_interval": 4, "limit_val_batches": 1}
    fit(keep(tmp_path), max_steps=5, enable_checkpointing=True, **settings)
    assert step_of(tmp_path / "last.ckpt") == 5


def test_a_step_saved_on_a_signal_is_not_saved_again(fit, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("lightning.Trainer.save_checkpoint", lambda self, path, *_, **__: saved.append(path))
    stop = StopOnSignal(tmp_path)
    fit(stop, Send(signal.SIGTERM), keep(tmp_path), val_check_interval=10, enable_checkpointing=True)
    assert saved.count(tmp_path / "last.ckpt") == 1
