"""SIGTERM and SIGUSR1 to the real processes of a run: they save, say so with their status, and lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import assert_same_run, children, finish, losses, read_until_step, start
from waiting import eventually

STEPS = 12
WORDS = (f"trainer.max_steps={STEPS}", "trainer.val_check_interval=12", "trainer=ddp_cpu", "data.num_workers=1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two processes that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, *WORDS)
    return folder


def assert_nothing_was_lost(whole: Path, folder: Path) -> None:
    before, after = losses(folder / "runs/one")
    assert len(before) >= 3 and after and not before.keys() & after.keys()
    assert [before | after] == losses(whole / "runs/one")
    assert_same_run(whole, folder, STEPS)


def ranks(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Process ids of rank 0, and of rank 1, which it has started; its other children load data."""
    words = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children(process.pid)}
    (other,) = [pid for pid, line in words.items() if "train_ddp_process_1" in line]
    return process.pid, other


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "receivers"),
    [
        (signal.SIGTERM, (0, 1)),
        pytest.param(signal.SIGUSR1, (1,), marks=pytest.mark.long),
        pytest.param(signal.SIGUSR1, (0, 1), marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, (0,), marks=pytest.mark.long),
    ],
    ids=["sigterm to both", "sigusr1 to rank 1", "sigusr1 to both", "sigterm to rank 0"],
)
def test_two_processes_stop_together_and_continue_to_the_bit(
    whole: Path, tmp_path: Path, number: signal.Signals, receivers: tuple[int, ...]
) -> None:
    process = start(tmp_path, *WORDS)
    seen = read_until_step(process, 3)
    pids = ranks(process)
    for receiver in receivers:
        os.kill(pids[receiver], number)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 75, seen + rest
    assert "saved step" in rest
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids)), "a process is left behind"
    assert "run one continues at" in finish(tmp_path, *WORDS)
    assert_nothing_was_lost(whole, tmp_path)


@pytest.mark.long
def test_a_signal_to_the_torchrun_script_reaches_both_processes_and_loses_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    process = start(tmp_path, *WORDS, command=("scripts/launch/torchrun.sh",))
    seen = read_until_step(process, 3)
    process.send_signal(signal.SIGUSR1)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 75 and "saved step" in rest, seen + rest
    assert "run one continues at" in finish(tmp_path, *WORDS, command=("scripts/launch/torchrun.sh",))
    assert_nothing_was_lost(whole, tmp_path)
