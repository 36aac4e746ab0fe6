"""Folders of runs as training leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml


def write_run(
    folder: Path, overrides: list[str], encoder: str = "causal", task: str = "pretrain", **summary: Any
) -> Path:
    """Writes the folder of a run of 20 steps."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/config.yaml").write_text(
        yaml.safe_dump({"task": {"name": task, "monitor": "val/loss"}, "trainer": {"max_steps": 20}})
    )
    hydra = {"runtime": {"choices": {"encoder": encoder}}, "overrides": {"task": overrides}}
    (folder / ".hydra/hydra.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
    (folder / "csv").mkdir()
    (folder / "csv/metrics.csv").write_text("step,val/loss,val/rank\n0,5.0,9\n10,4.0,8\n")
    (folder / "csv/hparams.yaml").write_text("latency/lookahead_ms: 2.4\nlatency/latency_mean_ms: 22.5\n")
    if summary:
        (folder / "summary.json").write_text(json.dumps({"name": folder.name, "preset": encoder, **summary}))
    return folder
