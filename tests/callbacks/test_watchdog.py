"""A stalled run says what it waits for, and a run that moves says nothing."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from streamnest.callbacks import Watchdog


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ("on_train_batch_end", "the next batch has not come"),
        ("on_train_batch_start", "another rank"),
        ("on_validation_batch_end", "validation"),
        ("on_save_checkpoint", "the disk"),
    ],
)
def test_what_a_stalled_run_waits_for_is_named(hook: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
    dog = Watchdog(seconds=0.05)
    dog.on_train_start(SimpleNamespace(global_rank=3), None)  # type: ignore[arg-type]
    getattr(dog, hook)()
    deadline = time.monotonic() + 20
    while words not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    dog.teardown()
    assert words in caplog.text and "rank 3 has waited" in caplog.text


def test_a_watchdog_can_be_turned_off_and_a_stopped_one_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    for dog in (Watchdog(seconds=0), Watchdog(seconds=3600)):
        dog.on_train_start(SimpleNamespace(global_rank=0), None)  # type: ignore[arg-type]
        dog.teardown()
    assert caplog.text == ""
