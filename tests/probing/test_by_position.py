"""Frame accuracy by position: what is visible in each condition, and which frame belongs to which position."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from models import ready
from omegaconf import DictConfig

from streamnest.checkpoint.loading import write_checkpoint
from streamnest.errors import UserError
from streamnest.probing import predicted_codes
from streamnest.probing.by_position import figures, measure_positions
from streamnest.probing.phone_labels import ProbeUtterance
from streamnest.probing.scored_frames import ScoredFrames

Compose = Callable[..., DictConfig]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def utterances(tmp_path: Path, speech_like: Any) -> list[ProbeUtterance]:
    made = []
    for number in range(4):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, speech_like(1, 33000, seed=number)[0].numpy(), 16000)
        phones = [(0.1 * n, 0.1 * n + 0.1, "ab"[n % 2]) for n in range(20)]
        made.append(ProbeUtterance(str(number), path, split="train" if number < 2 else "test", phones=phones))
    return made


def test_frames_are_counted_in_their_bins() -> None:
    frame = np.arange(30)  # of 0.1 s
    scored = ScoredFrames(frame // 15, (frame < 5) * 1.0, frame * 1.0, frame, 1 + frame % 2)
    lines = {(one.axis, one.position): one for one in figures("masked", scored, 0.1, 3)}
    sizes = [lines["seconds since the start", name].frames for name in ("0-0.5", "0.5-1", "1-2", "2-4")]
    assert sizes == [5, 5, 10, 10]
    first = lines["seconds since the start", "0-0.5"]
    assert (first.accuracy, first.low, first.high, first.nats) == (1.0, 1.0, 1.0, 2.0)
    assert lines["frames after the last visible one", "1"].accuracy == pytest.approx(3 / 15)
    assert lines["frame of the chunk", "3"].frames == 10 and ("seconds since the start", "4+") not in lines


def test_a_live_edge_hides_all_later_audio(
    run_config: Compose, utterances: list[ProbeUtterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ready(run_config("encoder=lookahead80"))
    seen, encode = [], model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda x, n: seen.append((x, n)) or encode(x, n))
    lines = measure_positions(model, utterances, masked_ms=160.0, step_ms=400.0)
    features, lengths = seen[0]
    # Every 10 frames, at each place of a chunk of 3 in turn; 4 masked frames after the edge end the utterance.
    assert lengths.tolist() == [4 * (edge + 4) for edge in (10, 21, 32, 40)]
    fill = model.masking.mask_embedding[:, None]
    for row, length in zip(features, lengths.tolist(), strict=True):
        assert (row[:, length - 16 : length] == fill).all() and (row[:, : length - 16] != fill).all()
    edge = [one for one in lines if one.condition == "live edge"]
    assert [one.frames for one in edge if one.axis.startswith("frames after")] == [2 * 4] * 4
    assert {one.condition for one in lines} == {"live edge", "masked", "unmasked", "phones"}
    whole = [one.frames for one in lines if (one.condition, one.axis[:7]) == ("unmasked", "seconds")]
    assert sum(whole) == 2 * (33000 // 640)
    monkeypatch.setattr(predicted_codes, "_ROWS", 1)
    again = measure_positions(model, utterances, masked_ms=160.0, step_ms=400.0)
    assert [one.nats for one in again] == pytest.approx([one.nats for one in lines], rel=1e-4)


def test_distances_count_from_the_last_visible_frame() -> None:
    selected = torch.tensor([False, True, True, False, True])
    assert predicted_codes._since_visible(selected)[selected].tolist() == [1, 2, 1]
    assert predicted_codes._since_visible(torch.tensor([True, True])).tolist() == [1, 2], "nothing is visible"


def test_positions_need_phones_or_audio_after_live_edges(run_config: Compose, utterances: list[ProbeUtterance]) -> None:
    model = ready(run_config("encoder=causal", "objective=next_token"))
    assert {one.condition for one in measure_positions(model, utterances)} == {"phones"}
    for one in utterances:
        one.phones = []
    with pytest.raises(UserError, match="nothing can be measured"):
        measure_positions(model, utterances)
    with pytest.raises(UserError, match="no utterance has 9240 ms, the sum of --masked-ms and --step-ms"):
        measure_positions(ready(run_config("encoder=causal")), utterances, masked_ms=9000)


@pytest.mark.slow
def test_the_script_writes_tables_and_a_plot(run_config: Compose, tmp_path: Path) -> None:
    write_checkpoint(ready(run_config("encoder=lookahead40")), tmp_path / "a.ckpt")
    script, json_path, plot = ROOT / "benchmarks/positions.py", tmp_path / "a.json", tmp_path / "a.png"
    command = [sys.executable, script, tmp_path / "a.ckpt", "--most", "4", "--json", json_path, "--plot", plot]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "frames after the last visible one" in done.stdout and plot.stat().st_size > 1000
    ((path, lines),) = json.loads(json_path.read_text()).items()
    assert path.endswith("a.ckpt") and {"low", "high", "frames"} <= lines[0].keys()
