from __future__ import annotations

import logging

import pytest
import torch

from streamnest.callbacks import CollapseAlarm
from streamnest.callbacks.collapse import codes_used_share

HEALTHY = {"val/loss": 6.0, "val/rank": 30.0}


def test_a_collapsed_representation_gives_a_warning_and_can_stop(fit, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = fit(CollapseAlarm(stop=True), limit_val_batches=1, val_check_interval=5)
    assert "effective rank of 1.5" in caplog.text
    assert "optim.lr" in caplog.text
    assert trainer.global_step == 5


def test_a_warning_alone_does_not_stop_the_run(fit):
    assert fit(CollapseAlarm(), limit_val_batches=1, val_check_interval=5).global_step == 20


def test_codes_that_are_all_in_use_raise_no_alarm():
    counts = torch.zeros(2, 8192).scatter_add_(1, torch.randint(8192, (2, 20000)), torch.ones(2, 20000))
    assert codes_used_share(counts) == pytest.approx(1.0, abs=0.03)
    assert CollapseAlarm().findings(HEALTHY, counts) == []


def test_the_124_codes_of_unnormalized_targets_raise_the_alarm():
    counts = torch.zeros(1, 8192)
    counts[:, :124] = 500
    (finding,) = CollapseAlarm().findings(HEALTHY, counts)
    assert finding.startswith("only 1.5%")
    assert "quantizer.normalize" in finding


def test_few_codes_of_few_frames_raise_no_alarm():
    counts = torch.zeros(1, 8192)
    counts[:, :50] = 1
    assert CollapseAlarm().findings(HEALTHY, counts) == []


def test_a_loss_that_is_not_finite_raises_the_alarm():
    (finding,) = CollapseAlarm().findings({**HEALTHY, "val/loss": float("nan")})
    assert "not finite" in finding


@pytest.mark.parametrize(("rank", "flag"), [(1.5, 1.0), (30.0, 0.0)], ids=["collapsed", "healthy"])
def test_the_flag_is_logged_after_each_validation(rank, flag):
    logged = []

    class Logger:
        def log_metrics(self, metrics, step):
            logged.append((metrics, step))

    class Trainer:
        sanity_checking, global_step, loggers, should_stop = False, 7, [Logger()], False
        callback_metrics = {"val/rank": torch.tensor(rank)}

    CollapseAlarm().on_validation_end(Trainer(), torch.nn.Module())
    assert logged == [({"health/collapsed": flag}, 7)]
