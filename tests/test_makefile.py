"""The commands of the README in an empty clone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def make(*words: str, folder: Path) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("STREAMNEST", "WANDB", "PYTEST", "VIRTUAL_ENV"))}
    done = subprocess.run(
        ["make", *words], cwd=folder, env=kept, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_make_train_and_test_work_in_an_empty_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    assert "gain" in make("train", "ARGS=debug=fast trainer=cpu", folder=clone)
    stamp = clone / ".venv/.installed"
    made = stamp.stat().st_mtime_ns
    make("setup", folder=clone)
    assert stamp.stat().st_mtime_ns == made
    assert " passed" in make("test", "ARGS=tests/encoder/test_context.py -n 0", folder=clone)


def test_help_lists_every_target() -> None:
    shown = make("help", folder=ROOT)
    for target in [
        "setup",
        "train",
        "test",
        "test-slurm",
        "lint",
        "format",
        "typecheck",
        "benchmark",
        "notebooks",
        "docs",
        "clean",
    ]:
        assert f"make {target} " in shown
