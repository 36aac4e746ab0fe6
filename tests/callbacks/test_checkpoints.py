"""The last checkpoint contains the last step."""

from __future__ import annotations

import signal

import pytest
import torch
from hydra.utils import instantiate
from lightning import Callback
from test_interrupt import Send

from streamnest.callbacks import BestAndLast, FinalValidation, MovingAverage, StopOnSignal, ValHistory
from streamnest.callbacks.budget import StopAtBudget
from streamnest.callbacks.moving_average import averages_first


def keep(folder, **settings):
    return BestAndLast(folder, save_last=True, save_on_train_epoch_end=False, enable_version_counter=False, **settings)


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


@pytest.mark.parametrize("steps", [6, 7, 8])
def test_the_last_step_is_saved_wherever_validations_fall(fit, tmp_path, steps):
    fit(keep(tmp_path), max_steps=steps, val_check_interval=4, limit_val_batches=1, enable_checkpointing=True)
    assert step_of(tmp_path / "last.ckpt") == steps


class Saved(Callback):
    """Makes a checkpoint due within a step, and records the number of batches before each that is saved."""

    def __init__(self, regular):
        self.regular, self.batches = regular, set()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 3:
            self.regular._last_time_checked = -1e9

    def on_save_checkpoint(self, trainer, *_):
        self.batches.add(trainer.fit_loop.epoch_loop.batch_idx + 1)


def test_with_accumulation_only_complete_steps_are_saved(fit, composed, tmp_path):
    regular = instantiate(composed(f"paths.output_dir={tmp_path}", "name=t", "preset=t").callbacks.regular)
    saved = Saved(regular)
    settings = {"accumulate_grad_batches": 3, "val_check_interval": 12, "limit_val_batches": 1}
    fit(saved, regular, keep(tmp_path), max_steps=5, enable_checkpointing=True, **settings)
    # Accumulated gradients are not part of a checkpoint.
    assert saved.batches == {6, 12, 15} and regular.state_key.startswith("ModelCheckpoint{")
    assert step_of(tmp_path / "checkpoints/newest.ckpt") == 2 and step_of(tmp_path / "last.ckpt") == 5


class EndsWithinAStep(Callback):
    """Ends training in the middle of the second step, as `trainer.max_time` may."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.should_stop |= batch_idx == 3


def test_with_accumulation_a_run_ends_after_a_complete_step(fit, tmp_path):
    saved, settings = Saved(keep(tmp_path)), {"accumulate_grad_batches": 3, "limit_val_batches": 1}
    fit(EndsWithinAStep(), saved, keep(tmp_path), max_steps=5, enable_checkpointing=True, **settings)
    assert saved.batches == {6} and step_of(tmp_path / "last.ckpt") == 2


def test_a_callback_that_ended_a_run_can_continue_it(fit, tmp_path):
    kept, settings = keep(tmp_path), {"accumulate_grad_batches": 3, "limit_val_batches": 1}
    fit(EndsWithinAStep(), kept, max_steps=5, enable_checkpointing=True, **settings)
    fit(kept, checkpoint=tmp_path / "last.ckpt", max_steps=5, enable_checkpointing=True, **settings)
    assert step_of(tmp_path / "last.ckpt") == 5


def test_a_step_saved_on_a_signal_is_not_saved_again(fit, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("lightning.Trainer.save_checkpoint", lambda self, path, *_, **__: saved.append(path))
    stop = StopOnSignal(tmp_path)
    fit(stop, Send(signal.SIGTERM), keep(tmp_path), val_check_interval=10, enable_checkpointing=True)
    assert saved.count(tmp_path / "last.ckpt") == 1


def test_recent_checkpoints_are_those_of_the_last_validations(fit, composed, tmp_path):
    overrides = ("callbacks.recent.save_top_k=2", f"paths.output_dir={tmp_path}", "name=t", "preset=t")
    recent = instantiate(composed(*overrides).callbacks.recent)
    fit(recent, keep(tmp_path), max_steps=7, val_check_interval=2, limit_val_batches=1, enable_checkpointing=True)
    names = {path.name: step_of(path) for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"recent_0000006.ckpt": 6, "recent_0000007.ckpt": 7}


class Seconds(Callback):
    """Consumes a second of audio in each step; records validations that get worse, and the steps of the loggers."""

    def __init__(self):
        self.logged = []

    def on_train_batch_start(self, trainer, module, *_):
        module.seconds_on_host = getattr(module, "seconds_on_host", trainer.global_step) + 1

    def on_train_batch_end(self, trainer, *_):
        self.logged.append(trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_validation_epoch_end(self, trainer, module):
        module.log("val/worse", float(trainer.global_step))


@pytest.mark.parametrize("end", [{"max_steps": 6}, {"max_steps": -1, "hours": 6}], ids=["steps", "hours"])
def test_the_last_checkpoint_has_the_last_validation_and_continues(fit, tmp_path, end):
    settings = {"val_check_interval": 4, "check_val_every_n_epoch": None, "limit_val_batches": 1}
    settings |= {"enable_checkpointing": True, "max_epochs": -1}
    for checkpoint, more, steps in ((None, 0, [4, 6]), (tmp_path / "last.ckpt", 3, [4, 6, 8, 9])):
        lengths = {name: value + more if value > 0 else value for name, value in end.items()}
        budget = [StopAtBudget(lengths.pop("hours") / 3600)] if "hours" in end else []
        seconds, best = Seconds(), keep(tmp_path, monitor="val/worse")
        fit(*budget, seconds, ValHistory(), best, checkpoint=checkpoint, **settings, **lengths)
        saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert [record["step"] for record in saved["callbacks"]["ValHistory"]["records"]] == steps
        assert seconds.logged == list(range(6 if more else 0, 6 + more))
        assert step_of(best.best_model_path) == 4


class Killed(Callback):
    """Ends the process, as far as files are concerned, within the validation after a step."""

    def __init__(self, step):
        self.step = step

    def on_validation_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise MemoryError


@pytest.mark.parametrize("end", [{"max_steps": 6}, {"max_steps": -1, "hours": 6}], ids=["steps", "hours"])
def test_a_killed_last_validation_is_repeated_without_another_step(fit, tmp_path, end):
    settings = {"val_check_interval": 4, "check_val_every_n_epoch": None, "limit_val_batches": 2}
    settings |= {"enable_checkpointing": True, "max_epochs": -1}

    def run(folder, *more, checkpoint=None, steps=0):
        lengths = {name: value + steps if value > 0 else value for name, value in end.items()}
        budget = [StopAtBudget(lengths.pop("hours") / 3600)] if "hours" in end else []
        own = (*budget, Seconds(), ValHistory(), MovingAverage(), keep(folder), *more)
        torch.manual_seed(0)
        fit(*averages_first(own), checkpoint=checkpoint, **settings, **lengths)
        return torch.load(folder / "last.ckpt", weights_only=True)

    whole, last = run(tmp_path / "whole"), tmp_path / "killed/last.ckpt"
    with pytest.raises(MemoryError):
        run(last.parent, Killed(6))
    assert len(torch.load(last, weights_only=True)["callbacks"]["ValHistory"]["records"]) == 1
    repeated = run(last.parent, FinalValidation(), checkpoint=last)
    assert repeated["global_step"] == 6
    longer = [run(folder, checkpoint=folder / "last.ckpt", steps=3) for folder in (last.parent, tmp_path / "whole")]
    for one, other in ((repeated, whole), longer):
        assert one["callbacks"]["ValHistory"] == other["callbacks"]["ValHistory"]
        for key in ("state_dict", "current_model_state"):
            assert all(torch.equal(value, other[key][name]) for name, value in one[key].items()), key
