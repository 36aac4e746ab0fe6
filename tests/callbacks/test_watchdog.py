"""A stalled run is reported with the stack traces of its threads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import eventually

from streamnest.callbacks import Watchdog


def wait_for_the_next_batch(caplog: pytest.LogCaptureFixture) -> bool:
    return eventually(lambda: "no progress" in caplog.text, seconds=20)


def test_a_stalled_run_reports_where_its_threads_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watchdog = Watchdog(tmp_path, seconds=0.05)
    watchdog.on_train_start(SimpleNamespace(global_rank=3), None)  # type: ignore[arg-type]
    assert wait_for_the_next_batch(caplog)
    watchdog.teardown()
    assert "rank 3: no progress for" in caplog.text and f"{tmp_path}/stalled_rank_3.txt" in caplog.text
    assert "in wait_for_the_next_batch" in (tmp_path / "stalled_rank_3.txt").read_text()


def test_a_watchdog_that_is_off_or_stopped_is_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seconds in (0, 3600):
        watchdog = Watchdog(tmp_path, seconds=seconds)
        watchdog.on_train_start(SimpleNamespace(global_rank=0), None)  # type: ignore[arg-type]
        watchdog.teardown()
    assert caplog.text == "" and not any(tmp_path.iterdir())


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_batch_end", "on_save_checkpoint"])
def test_each_kind_of_progress_restarts_the_clock(tmp_path: Path, hook: str) -> None:
    watchdog = Watchdog(tmp_path)
    watchdog._last = before = 0.0
    getattr(watchdog, hook)(None, None, None)
    assert watchdog._last > before
