"""Runs whose length is a number of hours of audio."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import EMAWeightAveraging
from omegaconf import DictConfig, OmegaConf

from streamnest.build import build_data, build_model
from streamnest.callbacks import StopOnSignal
from streamnest.callbacks.budget import StopAtBudget, is_consumed
from streamnest.checkpoint.loading import StoredCheckpoint
from streamnest.corpus_statistics import fit_statistics
from streamnest.data.datamodule import SpeechDataModule
from streamnest.errors import UserError
from streamnest.training.budget import make_trainer, refuse_contradictions, with_audio_budget
from streamnest.training.finished import is_complete, is_finished

Compose = Callable[..., DictConfig]
BUDGET = ("trainer.max_audio_hours=0.012", "data.batch_duration=8", "data.num_buckets=2", "data.cache_mb=0")


class Rates(L.Callback):
    """Records the learning rate of each step and after the last, and saves a checkpoint after one of them."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step, self.rates = path, step, list[float]()

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.last = trainer.optimizers[0].param_groups[0]["lr"]


def replaced(cfg: DictConfig, values: dict[str, Any]) -> DictConfig:
    cfg = copy.deepcopy(cfg)
    for key, value in values.items():
        OmegaConf.update(cfg, key, value)
    return cfg


def fit(cfg: DictConfig, rates: Rates, checkpoint: Path | None = None) -> Any:
    L.seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg)
    cfg = with_audio_budget(cfg, data)
    model = build_model(cfg, data)
    data.setup("fit")
    fit_statistics(model, data.statistics_batches(), 0.01)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    trainer = make_trainer(cfg, [rates], **quiet)
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    return model


@pytest.mark.parametrize(
    ("overrides", "final"),
    [(["optim=adamw_cosine"], 1e-5), (["optim=adamw_tristage", "optim.optimizer=muon"], 5e-5)],
    ids=["adamw cosine", "muon tri_stage"],
)
def test_a_resumed_run_ends_at_its_hours_with_equal_weights(
    run_config: Compose, tmp_path: Path, overrides: list[str], final: float
) -> None:
    cfg = run_config(*BUDGET, *overrides, "optim.warmup_steps=1")
    whole, rest = Rates(tmp_path / "half.ckpt", 3), Rates(tmp_path / "unused.ckpt", -1)
    model, resumed = fit(cfg, whole), fit(cfg, rest, tmp_path / "half.ckpt")
    last = 0.012 - 8 / 3600  # no batch is longer
    assert last < model.hours_seen - 1e-6 and 0.012 <= model.hours_seen < 0.012 + 8 / 3600
    assert whole.rates[3:] == rest.rates and whole.rates[1] > 3 * whole.rates[-1]
    assert whole.last == rest.last == pytest.approx(final)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_budget_ends_only_after_a_complete_step() -> None:
    for batch, seconds, stops in ((0, 3600.0, False), (1, 3600.0, False), (2, 3599.0, False), (2, 3600.0, True)):
        trainer: Any = SimpleNamespace(accumulate_grad_batches=3, should_stop=False)
        model: Any = SimpleNamespace(seconds_on_host=seconds)
        StopAtBudget(1.0).on_train_batch_end(trainer, model, None, None, batch)
        assert trainer.should_stop is stops


def test_weights_are_averaged_before_a_step_is_saved(run_config: Compose, tmp_path: Path) -> None:
    cfg = run_config(*BUDGET, "trainer.accumulate_grad_batches=4", "trainer.val_check_interval=6")
    trainer = make_trainer(cfg, [StopOnSignal(tmp_path), EMAWeightAveraging()], logger=False)
    assert trainer.val_check_interval == 8  # batches of complete steps
    kinds = [type(callback) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    assert kinds[0] is EMAWeightAveraging and {StopAtBudget, StopOnSignal} < set(kinds)


def test_the_learning_rate_follows_the_share_of_the_budget(run_config: Compose) -> None:
    cfg = run_config("optim.schedule=cosine", "trainer.max_steps=100", "optim.warmup_steps=10")
    optimization = build_model(cfg).optimization
    share = 0.0
    optimizer, schedule = optimization.build(torch.nn.Linear(2, 2), lambda: share)
    for share, step in ((0.05, 6), (0.5, 51), (1.0, 101)):
        optimizer.step()
        schedule.step()
        assert set(schedule.get_last_lr()) == {optimization.learning_rate(step)}, share


def test_planned_steps_are_those_of_the_mean_batch(run_config: Compose) -> None:
    speed = ("augment.speed.prob=0.5", "augment.speed.factors=[0.8]", "data.max_hours=0.06", "data.num_workers=0")
    cfg = run_config(*BUDGET, *speed, "trainer.val_every_hours=0.003")
    data: SpeechDataModule = build_data(replaced(cfg, {"data.num_batches": 60}))
    data.setup("fit")
    measured = [batch.seconds for batch in data.train_dataloader()]
    mean = data.mean_batch_seconds()
    assert mean == pytest.approx(sum(measured) / len(measured), rel=0.03)
    planned = with_audio_budget(cfg, data)
    assert planned.trainer.max_steps == planned.optim.max_steps == round(0.012 * 3600 / mean)
    assert planned.trainer.val_check_interval == round(0.003 * 3600 / mean)
    processes = ("trainer.devices=2", "trainer.num_nodes=2", "trainer.accumulate_grad_batches=3")
    several = run_config(*BUDGET, *processes, "trainer.max_audio_hours=0.12", "trainer.val_every_hours=0.05")
    planned, rate = with_audio_budget(several, data), 3600 / 12 / data.mean_batch_seconds(4)
    assert planned.trainer.max_steps == round(0.12 * rate)
    # Batches, of complete steps.
    assert planned.trainer.val_check_interval == 3 * round(0.05 * rate) != round(3 * 0.05 * rate)
    assert with_audio_budget(run_config(), data).trainer.max_steps == run_config().trainer.max_steps


def test_a_continued_run_keeps_its_steps_in_proportion(run_config: Compose) -> None:
    earlier = {"trainer": {"max_steps": 50, "max_audio_hours": 0.006}}
    stored: Any = SimpleNamespace(content={"streamnest": {"config": earlier}})
    assert with_audio_budget(run_config(*BUDGET), None, stored).trainer.max_steps == 100
    with pytest.raises(UserError, match="mean_batch_seconds"):
        with_audio_budget(run_config(*BUDGET), SimpleNamespace())


def test_a_run_with_its_hours_is_finished(run_config: Compose, caplog: pytest.LogCaptureFixture) -> None:
    cfg = run_config("trainer.max_audio_hours=0.079")
    # The callback that ends a run must agree, whatever the rounding.
    for seconds, finished in ((284.3, False), (284.4, 284.4 / 3600 >= 0.079), (284.5, True)):
        content = {"state_dict": {"seconds_seen": torch.tensor(seconds, dtype=torch.float64)}}
        model: Any = SimpleNamespace(seconds_on_host=seconds)
        assert is_complete(content, cfg) is is_consumed(model, 0.079) is finished
    cfg = run_config("trainer.max_audio_hours=2")
    content = {"state_dict": {"seconds_seen": torch.tensor(7200.0)}}
    assert is_finished(StoredCheckpoint(Path("/other/last.ckpt"), content), cfg)
    assert "2.00 of 2 h of audio; trainer.max_audio_hours=4 continues" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.max_audio_hours=2", "trainer.max_steps=100"], "max_audio_hours=2 and trainer.max_steps both"),
        (["trainer.max_audio_hours=2", "data.num_batches=9"], "max_audio_hours=2 and data.num_batches both"),
        (["trainer.val_every_hours=1", "trainer.val_check_interval=5"], "val_every_hours=1 and trainer.val_check"),
        (["trainer.max_audio_hours=2", "trainer.val_every_hours=3"], "is more than trainer.max_audio_hours=2"),
    ],
)
def test_a_length_given_twice_is_refused(
    composed: Compose, monkeypatch: pytest.MonkeyPatch, overrides: list[str], message: str
) -> None:
    cfg = composed(*overrides)
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: cfg.hydra)
    with pytest.raises(UserError, match=message):
        refuse_contradictions(cfg)
