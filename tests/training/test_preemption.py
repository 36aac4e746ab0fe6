"""SIGTERM and SIGUSR1 to real processes: they save, end with the status for preemption, and lose no step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT, Process, eventually
from runs import SMALL, assert_same_run, children, environment, finish, losses, read_until_step, start

from streamnest.console.entry_point import PREEMPTED

STEPS = 12
WORDS = (f"trainer.max_steps={STEPS}", f"trainer.val_check_interval={4 * STEPS}", "trainer=ddp_cpu")
WORDS += ("data.num_workers=1", "trainer.accumulate_grad_batches=4", "data.batch_duration=20")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of an undisturbed run of two processes."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, *WORDS)
    return folder


def assert_nothing_was_lost(whole: Path, folder: Path) -> None:
    before, after = losses(folder / "runs/one")
    assert len(before) >= 3 and after and not before.keys() & after.keys()
    assert [before | after] == losses(whole / "runs/one")
    assert_same_run(whole, folder, STEPS)


def rank_1(process: Process) -> int:
    """Returns the process of rank 1, a child of rank 0; its other children load data."""
    words = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children(process.pid)}
    (pid,) = [pid for pid, line in words.items() if "train_ddp_process_1" in line]
    return pid


def send(process: Process, number: signal.Signals, receiver: str) -> None:
    """Sends a signal to all processes, including data loading workers, as SLURM does; or to one rank."""
    if receiver == "all":
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid if receiver == "rank 0" else rank_1(process), number)


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "receiver"),
    [
        (signal.SIGTERM, "all"),
        (signal.SIGUSR1, "all"),
        (signal.SIGUSR1, "rank 1"),
        (signal.SIGTERM, "rank 0"),
    ],
    ids=["sigterm to all", "sigusr1 to all", "sigusr1 to rank 1", "sigterm to rank 0"],
)
def test_two_processes_stop_together_and_continue_bit_for_bit(
    whole: Path, tmp_path: Path, number: signal.Signals, receiver: str
) -> None:
    process = start(tmp_path, *WORDS)
    seen, other = read_until_step(process, 3), rank_1(process)
    # In the middle of a step, whose remaining batches are not loaded yet.
    time.sleep(0.2)
    send(process, number, receiver)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == PREEMPTED, seen + rest
    assert "saved step" in rest
    assert eventually(lambda: not Path(f"/proc/{other}").exists()), "a process is left behind"
    assert "run one continues at" in finish(tmp_path, *WORDS)
    assert_nothing_was_lost(whole, tmp_path)


@pytest.mark.long
def test_a_signal_to_the_torchrun_script_stops_both_processes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    command = ["scripts/launch/torchrun.sh", *SMALL, *WORDS]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=environment(tmp_path), start_new_session=True, **streams)
    seen = read_until_step(process, 3)
    process.send_signal(signal.SIGUSR1)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == PREEMPTED and "saved step" in rest, seen + rest
    done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), timeout=400, check=True, **streams)
    assert "run one continues at" in done.stdout
    assert_nothing_was_lost(whole, tmp_path)
