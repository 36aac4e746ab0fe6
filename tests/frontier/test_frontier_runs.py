"""A minimal real frontier, with one process per stage."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from processes import run

TINY = ("debug=fast", "size.d_model=32", "trainer=cpu", "~callbacks.plots", "data.max_duration=3")


def frontier(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ("--out", str(out), "--presets", "dynamic", "bidirectional", "--contexts", "lookahead40", "full")
    steps = ("--pretrain_steps", "2", "--finetune_steps", "3", "--threads", "1")
    return run("scripts/frontier.py", *options, *steps, *arguments, timeout=3000)


@pytest.mark.long
def test_frontier_is_run_once_and_reported(tmp_path: Path) -> None:
    done = frontier(tmp_path, "--both", *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 stages, 0 of them done" in done.stdout
    found = json.loads((tmp_path / "frontier.json").read_text())
    assert found["done"] == found["planned"] == 6
    points = {(p["preset"], p["context"], p["pretrained"]): p for p in found["points"]}
    streamed, whole = points["dynamic", "lookahead40", True], points["dynamic", "full", True]
    assert (streamed["latency_mean_ms"], whole["latency_mean_ms"]) == (42.5, None)
    assert streamed["compute_chunk_ms"] == 80 and streamed["compute_p50_ms"] > 0 and whole["compute_p50_ms"] is None
    for point in points.values():
        assert 0 < point["cer_low"] <= point["cer"] <= point["cer_high"] and point["utterances"] > 10
        assert point["cer_seen"] is None and point["cer_unseen"] == point["cer"]  # as the built-in corpus is split
    again = frontier(tmp_path, "--both", *TINY)
    assert again.returncode == 0 and "12 stages, 12 of them done" in again.stdout and "started" not in again.stdout
    assert (tmp_path / "frontier.png").is_file() and not (tmp_path / "labels.png").exists()
