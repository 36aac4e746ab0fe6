from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from streamnest.callbacks import Throughput, throughput


class Module:
    device = torch.device("cpu")

    def __init__(self):
        self.logged = {}

    def log(self, name, value, **_):
        self.logged[name] = float(value)

    def log_dict(self, values, **_):
        self.logged |= values


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now.time)
    return now


def step(callback, module, clock, waited, worked, seconds=60.0):
    batch = SimpleNamespace(seconds=seconds, ids=["a"])
    clock.time += waited
    callback.on_train_batch_start(None, module, batch, 0)
    clock.time += worked
    callback.on_train_batch_end(None, module, None, batch, 0)


def test_speed_and_share_of_waiting_time(clock):
    module, callback = Module(), Throughput(window=4, warmup=1)
    callback.on_train_start(None, module)
    step(callback, module, clock, 0.0, 100.0)
    assert module.logged == {}, "the first batch is warm-up"
    for _ in range(6):
        step(callback, module, clock, 0.5, 1.5)
    assert module.logged["train/audio_hours_per_hour"] == pytest.approx(30.0)
    assert module.logged["train/step_seconds"] == pytest.approx(2.0)
    assert module.logged["train/data_wait_share"] == pytest.approx(0.25)
    assert module.logged["train/memory_gb"] > 0.05
    assert callback.total.waited == pytest.approx(6 * 0.5), "the window forgets, the total does not"
    assert callback.total.wall == pytest.approx(12.0) and callback.total.audio == pytest.approx(360.0)


def test_validation_time_is_excluded(clock):
    module, callback = Module(), Throughput(warmup=0)
    callback.on_train_start(None, module)
    step(callback, module, clock, 0.0, 2.0)
    clock.time += 500.0
    callback.on_validation_end(None, module)
    clock.time += 30.0
    step(callback, module, clock, 0.0, 2.0)
    assert module.logged["train/step_seconds"] == pytest.approx(2.0)
    assert module.logged["train/data_wait_share"] == 0.0
