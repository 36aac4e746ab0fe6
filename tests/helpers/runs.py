"""Real training processes that are started, stopped by signals, and compared."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import torch
from processes import Process

# Skips the check before training, which takes longer than these runs; `test_train.py` makes it.
UNCHECKED = "encoder.allow_future_leak=true"
SMALL = (
    UNCHECKED,
    *("debug=fast", "size.d_model=32", "trainer=cpu", "trainer.max_steps=8", "trainer.val_check_interval=4"),
    *("logger=csv", "callbacks.regular.every_n_train_steps=2", "callbacks.regular.train_time_interval=null"),
    *("size.dropout=0.1", "run_id=one", "~callbacks.plots", "threads=1"),
    *("data.batch_duration=20", "statistics.hours=0.02"),
)

SHORT = ("debug=fast", "size.d_model=32", "trainer=cpu", "trainer.max_steps=6", "trainer.val_check_interval=3")


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "STREAMNEST_LOGS": str(folder), "WANDB_MODE": "offline", "COLUMNS": "160"}


def start(folder: Path, *words: str) -> Process:
    return Process("train.py", *SMALL, *words, env=environment(folder))


def finish(folder: Path, *words: str) -> str:
    process = start(folder, *words)
    text, _ = process.communicate(timeout=400)
    assert process.returncode == 0, text
    return text


def read_until_step(process: Process | subprocess.Popen[str], step: int) -> str:
    """Reads the output of a run until it has made a step."""
    assert process.stdout
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(f"step {step}/"):
            return "".join(seen)
    raise AssertionError("".join(seen))


def killed_at(folder: Path, step: int, *words: str) -> None:
    """Runs until a step has been printed, then kills every process of the run."""
    process = start(folder, *words)
    seen = read_until_step(process, step)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    assert process.returncode == -signal.SIGKILL, seen


def children(pid: int) -> list[int]:
    """Returns the child processes of a process."""
    lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(word) for words in lists for word in words]


def weights(folder: Path, run: str = "one") -> dict[str, Any]:
    return torch.load(folder / f"runs/{run}/checkpoints/last.ckpt", weights_only=True)  # type: ignore[no-any-return]


def losses(folder: Path) -> list[dict[str, str]]:
    """Returns the logged training loss by step, as text, of each start of a run in order."""
    rows = []
    for path in sorted(folder.glob("csv*/metrics.csv"), key=lambda path: len(path.parent.name)):
        with path.open() as file:
            rows.append({row["step"]: row["train/loss"] for row in csv.DictReader(file) if row.get("train/loss")})
    return rows


def assert_same_run(one: Path, other: Path, steps: int = 8, run: str = "one") -> None:
    a, b = weights(one), weights(other, run)
    assert a["global_step"] == b["global_step"] == steps
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    for key, state in a["optimizer_states"][0]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, b["optimizer_states"][0]["state"][key][name]), (key, name)
