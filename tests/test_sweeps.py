"""Sweeps through the launchers of the extra `sweeps`, where it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "plugin"), [("submitit_local", "hydra_submitit_launcher"), ("joblib", "hydra_joblib_launcher")]
)
def test_a_sweep_runs_every_job_and_a_second_start_continues_them(tmp_path: Path, launcher: str, plugin: str) -> None:
    pytest.importorskip(f"hydra_plugins.{plugin}", reason="pip install -e '.[sweeps]'")
    words = [
        "debug=fast",
        "trainer=cpu",
        "threads=1",
        "encoder=causal,lookahead40",
        "run_id=one",
        "~callbacks.pictures",
    ]
    words += ["size.d_model=32", "trainer.limit_val_batches=1", f"hydra/launcher={launcher}"]

    def sweep(steps: int) -> None:
        command = [sys.executable, "train.py", "-m", *words, f"trainer.max_steps={steps}"]
        environment = {**os.environ, "STREAMNEST_LOGS": str(tmp_path)}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    sweep(2)
    logs = [
        tmp_path / f"multiruns/one/{n}_{preset}-causal-tiny/train.log"
        for n, preset in enumerate(("causal", "lookahead40"))
    ]
    assert all(path.exists() and "continues at" not in path.read_text() for path in logs)
    sweep(3)
    assert all("run one continues at" in path.read_text() for path in logs)
