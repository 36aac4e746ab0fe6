"""A run that was killed and started again is the run that was not."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from streamnest import resume
from streamnest.errors import UserError
from streamnest.resume import AtomicCheckpointIO, newest_checkpoint

ROOT = Path(__file__).parents[1]
SMALL = (
    *("debug=fast", "size.d_model=32", "trainer=cpu", "trainer.max_steps=8", "trainer.val_check_interval=4"),
    *("logger=csv", "callbacks.regular.every_n_train_steps=2", "callbacks.regular.train_time_interval=null"),
    *("size.dropout=0.1", "run_id=one", "~callbacks.pictures", "threads=1"),
)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "STREAMNEST_LOGS": str(folder), "COLUMNS": "160"}
    return subprocess.Popen(
        [sys.executable, "train.py", *SMALL, *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(folder: Path, *words: str) -> str:
    process = start(folder, *words)
    text, _ = process.communicate(timeout=400)
    assert process.returncode == 0, text
    return text


def killed_at(folder: Path, step: int, *words: str) -> None:
    """Runs until a step has been printed, then kills every process of the run."""
    process = start(folder, *words)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(f"step {step}/"):
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait(timeout=60)
    assert process.returncode == -signal.SIGKILL, "".join(seen)


def weights(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "runs/one/checkpoints/last.ckpt", weights_only=True)  # type: ignore[no-any-return]


def assert_same_run(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a["global_step"] == b["global_step"] == 8
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    for key, state in a["optimizer_states"][0]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, b["optimizer_states"][0]["state"][key][name]), (key, name)


def test_a_killed_run_started_again_ends_with_the_same_weights(tmp_path: Path) -> None:
    finish(tmp_path / "whole")
    killed_at(tmp_path / "killed", 5)
    text = finish(tmp_path / "killed")
    assert "run one continues at" in text and "step 1/8" not in text
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    metrics = sorted(path.parent.name for path in (tmp_path / "killed").rglob("metrics.csv"))
    assert metrics == ["csv", "csv_2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("data.num_workers=2",), marks=pytest.mark.long),
        pytest.param(("trainer.accumulate_grad_batches=2", "encoder=dynamic"), marks=pytest.mark.long),
        ("trainer=ddp_cpu", "data.num_workers=1"),
        pytest.param(("trainer=fsdp_cpu", "encoder.recompute_blocks=true"), marks=pytest.mark.long),
    ],
    ids=["workers", "accumulation", "ddp", "fsdp"],
)
def test_a_run_killed_several_times_ends_with_the_same_weights(tmp_path: Path, words: tuple[str, ...]) -> None:
    finish(tmp_path / "whole", *words)
    killed_at(tmp_path / "killed", 3, *words)
    killed_at(tmp_path / "killed", 7, *words)
    finish(tmp_path / "killed", *words)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_preempted_run_saves_and_ends_with_the_status_that_says_try_again(tmp_path: Path) -> None:
    process = start(tmp_path, "trainer.max_steps=5000", "trainer.val_check_interval=5000", "optim.warmup_steps=1")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 3/"):
            process.send_signal(signal.SIGUSR1)
            break
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 75 and "SIGUSR1: saved step" in rest, rest
    assert 3 <= weights(tmp_path)["global_step"] < 5000


def checkpoint(step: int) -> dict[str, Any]:
    return {"state_dict": {"w": torch.zeros(1000)}, "streamnest": {"config": {}}, "global_step": step}


def test_a_full_disk_costs_neither_the_last_checkpoint_nor_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    io, old, new = AtomicCheckpointIO(), tmp_path / "old.ckpt", tmp_path / "new.ckpt"
    io.save_checkpoint(checkpoint(1), old)

    def full(_: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(resume, "_write", full)
        io.save_checkpoint(checkpoint(2), new)
        io.remove_checkpoint(old)
        io.save_checkpoint(checkpoint(2), old)
        assert "No space left" in caplog.text and "is kept" in caplog.text
        assert [path.name for path in tmp_path.iterdir()] == ["old.ckpt"]
        assert torch.load(old, weights_only=True)["global_step"] == 1
        for _ in range(2):
            io.save_checkpoint(checkpoint(2), new)
        with pytest.raises(UserError, match="failure 5 in a row"):
            io.save_checkpoint(checkpoint(2), new)
    io.save_checkpoint(checkpoint(2), new)
    io.remove_checkpoint(old)
    assert [path.name for path in tmp_path.iterdir()] == ["new.ckpt"]


def test_the_newest_checkpoint_that_can_be_read_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert newest_checkpoint(tmp_path) is None
    for step in (1, 2, 3):
        path = tmp_path / f"{step}.ckpt"
        torch.save(checkpoint(step), path)
        if step == 3:
            path.write_bytes(path.read_bytes()[:3000])
        os.utime(path, (time.time() + step, time.time() + step))
    (tmp_path / ".4.ckpt.part").write_bytes(b"half")
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.name == "2.ckpt"
    assert "3.ckpt" in caplog.text


@pytest.mark.slow
def test_two_processes_learn_what_one_with_twice_the_batch_learns(tmp_path: Path) -> None:
    """The limit on the size must bind, and dropout differ by nothing: there is none."""
    same = ("size.dropout=0", "data.batch_duration=1000", "trainer.max_steps=4", "augment=noise", "statistics.hours=1")
    finish(tmp_path / "two", *same, "trainer=ddp_cpu", "data.max_batch_size=4")
    finish(tmp_path / "one", *same, "data.max_batch_size=8")
    two, one = (weights(tmp_path / name)["state_dict"] for name in ("two", "one"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
