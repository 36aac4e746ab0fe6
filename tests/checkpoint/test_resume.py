"""A run that was killed and continued equals a run that was not."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from runs import assert_same_run, finish, killed_at, losses, read_until_step, start, weights

from streamnest.checkpoint import resume
from streamnest.checkpoint.compatibility import warn_of_changes
from streamnest.checkpoint.resume import AtomicCheckpointIO, newest_checkpoint
from streamnest.console.entry_point import PREEMPTED
from streamnest.errors import UserError


def plain(cfg: Any) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    finish(tmp_path / "whole")
    killed_at(tmp_path / "killed", 5)
    text = finish(tmp_path / "killed")
    assert "run one continues at" in text and "step 1/8" not in text
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    metrics = sorted(path.parent.name for path in (tmp_path / "killed").rglob("metrics.csv"))
    assert metrics == ["csv", "csv_2"]


TEACHER = (
    *("quantizer=teacher", f"quantizer.checkpoint={Path(__file__).parents[1] / 'fixtures/stored/pretraining.ckpt'}"),
    *("quantizer.layer=1", "quantizer.num_classes=32"),
)


DUAL_MODE = (
    *("encoder=dynamic", "encoder.contexts.full.weight=0", "encoder.norms_per_mode=true", "callbacks=ema"),
    *("task.dual_mode.offline_weight=1", "task.dual_mode.distillation_weight=0.5"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "steps"),
    [
        pytest.param(("data.num_workers=2",), (3, 7), marks=pytest.mark.long),
        pytest.param(("trainer.accumulate_grad_batches=2", "encoder=dynamic"), (3, 7), marks=pytest.mark.long),
        (("trainer=ddp_cpu",), (5,)),
        pytest.param(("trainer=ddp_cpu", "data.num_workers=1"), (3, 7), marks=pytest.mark.long),
        pytest.param(("trainer=ddp_cpu", *TEACHER), (5,), marks=pytest.mark.long),
        pytest.param(("trainer=ddp_cpu", *DUAL_MODE), (5,), marks=pytest.mark.long),
        pytest.param(("trainer=ddp_cpu", "data.piece_s=0.8", "augment=none"), (5,), marks=pytest.mark.long),
        pytest.param(("trainer=fsdp_cpu", "encoder.activation_checkpointing=true"), (3, 7), marks=pytest.mark.long),
    ],
    ids=[
        *("workers", "accumulation", "ddp", "ddp and workers", "ddp and teacher", "ddp and dual mode"),
        *("ddp and pieces", "fsdp"),
    ],
)
def test_repeated_kills_do_not_change_the_weights(
    tmp_path: Path, words: tuple[str, ...], steps: tuple[int, ...]
) -> None:
    finish(tmp_path / "whole", *words)
    for step in steps:
        killed_at(tmp_path / "killed", step, *words)
    finish(tmp_path / "killed", *words)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_preempted_run_saves_and_ends_with_status_75(tmp_path: Path) -> None:
    process = start(tmp_path, "trainer.max_steps=5000", "trainer.val_check_interval=5000", "optim.warmup_steps=1")
    read_until_step(process, 3)
    process.send_signal(signal.SIGUSR1)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == PREEMPTED and "SIGUSR1: saved step" in rest, rest
    assert 3 <= weights(tmp_path)["global_step"] < 5000


def checkpoint(step: int) -> dict[str, Any]:
    return {"state_dict": {"w": torch.zeros(1000)}, "streamnest": {"config": {}}, "global_step": step}


def test_a_full_disk_damages_neither_checkpoints_nor_the_run(
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


def test_the_newest_readable_checkpoint_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert newest_checkpoint(tmp_path) is None
    for step in (1, 2, 3):
        path = tmp_path / f"{step}.ckpt"
        torch.save(checkpoint(step), path)
        if step == 3:
            path.write_bytes(path.read_bytes()[:3000])
        os.utime(path, (time.time() + step, time.time() + step))
    (tmp_path / ".4.ckpt.part").write_bytes(b"half")
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.path.name == "2.ckpt"
    assert "3.ckpt" in caplog.text


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    """The limit on the batch size must be reached, and dropout, which differs between ranks, must be off."""
    same = ("size.dropout=0", "data.batch_duration=1000", "trainer.max_steps=4", "augment=noise", "statistics.hours=1")
    # Muon gives directions of tiny gradients full weight, and with them the rounding of another order of sums.
    same += ("optim=adamw_cosine",)
    text = finish(tmp_path / "two", *same, "trainer=ddp_cpu", "data.max_batch_size=4")
    assert text.count("validation loss") == 1 and "2 x CPU" in text
    finish(tmp_path / "one", *same, "data.max_batch_size=8")
    (logged_by_two,), (logged_by_one,) = (losses(tmp_path / name / "runs/one") for name in ("two", "one"))
    assert len(logged_by_one) == 4 and logged_by_one.keys() == logged_by_two.keys()
    assert all(abs(float(logged_by_two[step]) - float(loss)) < 1e-3 for step, loss in logged_by_one.items())
    two, one = (weights(tmp_path / name)["state_dict"] for name in ("two", "one"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_changed_settings_of_a_continued_run_are_named(run_config: Any, caplog: Any) -> None:
    words = ("task=ctc", "optim.lr=3e-3", "encoder_from=a.ckpt", "trainer.max_steps=100", "data.num_workers=1")
    stored: Any = SimpleNamespace(path="a.ckpt", content={"streamnest": {"config": plain(run_config(*words))}})
    del stored.content["streamnest"]["config"]["optim"]["layer_decay"]  # an older checkpoint lacks it
    warn_of_changes(stored, plain(run_config("task=ctc", "optim.lr=3e-3", "trainer.max_steps=200")))
    assert not caplog.records
    other = ("task.teacher=b.ckpt", "seed=1", "augment.speed.factors=[0.8]", "trainer.precision=bf16-mixed")
    warn_of_changes(stored, plain(run_config("task=ctc", "optim.lr=1e-3", *other)))
    (message,) = caplog.messages
    assert "continues a.ckpt with other settings" in message and "task.teacher='b.ckpt' (was None)" in message
    assert "optim.lr=0.001 (was 0.003)" in message and "augment.speed.factors=[0.8] (was [0.9, 1.1])" in message
    assert "seed=1 (was 0)" in message and "trainer.precision='bf16-mixed' (was '32-true')" in message
