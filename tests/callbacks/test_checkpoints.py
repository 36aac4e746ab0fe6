"""Which checkpoints a run keeps."""

from __future__ import annotations

from hydra.utils import instantiate


def test_a_run_keeps_the_newest_by_time_the_best_the_last_and_every_so_many_steps(fit, composed, tmp_path):
    words = ("name=t", "preset=t", f"paths.output_dir={tmp_path}")
    kept = ("callbacks.regular.train_time_interval.minutes=0", "callbacks.milestones.every_n_train_steps=8")
    nodes = composed(*words, *kept).callbacks
    callbacks = [instantiate(nodes[name]) for name in ("regular", "milestones", "checkpoint")]
    fit(*callbacks, enable_checkpointing=True, limit_val_batches=1.0, val_check_interval=5)
    found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    best = [name for name in found if name.startswith("step_")]
    assert len(best) == 1
    assert found == ["last.ckpt", "milestone_0000008.ckpt", "milestone_0000016.ckpt", "newest.ckpt", *best]


def test_milestones_can_be_switched_off(fit, composed, tmp_path):
    words = ("name=t", "preset=t", f"paths.output_dir={tmp_path}", "callbacks.milestones.every_n_train_steps=0")
    fit(instantiate(composed(*words).callbacks.milestones), enable_checkpointing=True, max_steps=10)
    assert not (tmp_path / "checkpoints").exists()
