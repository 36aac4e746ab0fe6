from __future__ import annotations

import logging
import os
import signal
import threading
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback

from streamnest.callbacks import StopOnSignal, ValHistory
from streamnest.callbacks.interrupt import exit_on_signals_before_training
from streamnest.console.entry_point import continue_command


class Send(Callback):
    """Sends a signal to this process at the start of a batch."""

    def __init__(self, number, at=(3,)):
        self.number, self.at = number, at

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx in self.at:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_finishes_and_saves_the_batch(fit, tmp_path, capsys, caplog, number):
    before = signal.getsignal(number)
    stop = StopOnSignal(tmp_path / "checkpoints")
    with caplog.at_level(logging.WARNING):
        trainer = fit(stop, Send(number), limit_val_batches=1, val_check_interval=10)

    assert stop.stopped
    assert trainer.global_step == 4
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    assert "saved step 4" in caplog.text
    assert f"continue: python train.py ckpt_path={tmp_path}/checkpoints/last.ckpt\n" in capsys.readouterr().out
    assert signal.getsignal(number) == before


def test_nothing_is_validated_after_a_signal(fit, tmp_path):
    class Count(Callback):
        validations = 0

        def on_validation_start(self, trainer, module):
            self.validations += 1

    count = Count()
    trainer = fit(StopOnSignal(tmp_path), Send(signal.SIGINT), count, limit_val_batches=1, val_check_interval=10)
    assert count.validations == 0
    assert trainer.limit_val_batches == 1, "validation is still possible afterwards"


def test_a_second_ctrl_c_ends_the_process_without_saving(fit, tmp_path):
    class Twice(Callback):
        def on_train_batch_start(self, *args):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as stopped:
            fit(StopOnSignal(tmp_path), Twice())
        assert stopped.value.code == 130
        assert not (tmp_path / "last.ckpt").exists()
    finally:
        # Lightning ignores further signals once it has caught the exception.
        signal.signal(signal.SIGINT, before)


def test_a_signal_forwarded_twice_changes_nothing(fit, tmp_path):
    """SLURM and torchrun both send SIGTERM to processes that have already received it."""

    class Twice(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)

    stop = StopOnSignal(tmp_path)
    assert fit(stop, Twice()).global_step == 1
    assert stop.preempted and (tmp_path / "last.ckpt").exists()


def test_a_signal_before_training_ends_with_its_status():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        exit_on_signals_before_training()
        for number in before:
            with pytest.raises(SystemExit) as stopped:
                os.kill(os.getpid(), number)
            assert stopped.value.code == (130 if number == signal.SIGINT else 75)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_nothing_is_saved_without_a_signal(fit, tmp_path):
    assert fit(StopOnSignal(tmp_path)).global_step == 20
    assert not (tmp_path / "last.ckpt").exists()


def test_outside_the_main_thread_no_handlers_are_installed(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    stop, seen = StopOnSignal(tmp_path), []
    thread = threading.Thread(target=lambda: (stop.on_train_start(None, None), seen.append(stop.stopped)))
    thread.start()
    thread.join(60)
    assert seen == [False]  # it raised nothing
    assert signal.getsignal(signal.SIGINT) == before


def test_the_command_to_continue_quotes_what_hydra_would_misread():
    assert continue_command("logs/last.ckpt") == "python train.py ckpt_path=logs/last.ckpt"
    assert continue_command("a/x=1/last.ckpt", "trainer.max_steps=40") == (
        "python train.py 'ckpt_path=\"a/x=1/last.ckpt\"' trainer.max_steps=40"
    )


def test_a_signal_waits_for_the_end_of_an_accumulated_step(tmp_path):
    saved = []
    trainer = SimpleNamespace(
        accumulate_grad_batches=2,
        strategy=SimpleNamespace(reduce_boolean_decision=lambda flag, all: flag),
        save_checkpoint=saved.append,
        limit_val_batches=1.0,
        is_global_zero=False,
    )
    callback = StopOnSignal(tmp_path)
    callback._received = "SIGTERM"
    callback.on_train_batch_end(trainer, None, None, None, 0)
    assert saved == [] and not callback.stopped
    callback.on_train_batch_end(trainer, None, None, None, 1)
    assert saved == [tmp_path / "last.ckpt"] and callback.preempted


class SendInValidation(Callback):
    def __init__(self):
        self.batches = []

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        self.batches.append(trainer.global_step)
        if len(self.batches) == 2:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("every", "saved"), [(10, 11), (20, 20)], ids=["in between", "at the end"])
def test_a_validation_interrupted_by_a_signal_is_not_recorded(fit, tmp_path, every, saved):
    stop, history, send = StopOnSignal(tmp_path), ValHistory(), SendInValidation()
    fit(stop, history, send, limit_val_batches=4, val_check_interval=every)
    assert send.batches == [every] * 2 and history.records == []
    assert stop.preempted and torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == saved
