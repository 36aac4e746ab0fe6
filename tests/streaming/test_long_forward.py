"""Offline forward of long recordings in windows, and comparisons with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from inprocess import main
from models import ready
from omegaconf import DictConfig

from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.probing import encoded
from streamnest.streaming import StreamingSession, certificate, long_forward, tables
from streamnest.streaming.comparison import compare_streaming_vs_offline
from streamnest.streaming.long_forward import forward_in_windows, require_windows
from streamnest.streaming.simulation import simulate_streaming_inference
from streamnest.streaming.step import Rows

SPEECH_S = 9.37


@pytest.fixture(autouse=True)
def _short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treats audio over a second as long."""
    for module in (long_forward, tables, encoded):
        monkeypatch.setattr(module, "FULL_FORWARD_S", 1.0)


@pytest.mark.parametrize(
    "overrides",
    [
        ("encoder=lookahead40", "encoder.left_context_ms=320"),
        ("encoder=causal", "encoder.left_context_ms=200", "encoder.normalize=online"),
        ("encoder=lookahead40", "encoder.left_context_ms=240", "encoder.style=delayed"),
        (
            "encoder=lookahead40",
            "encoder.left_context_ms=240",
            "encoder.style=regular",
            "encoder.allow_future_leak=true",
        ),
        ("encoder=causal", "encoder.left_context_ms=200", "encoder.subsampling_padding=shifted"),
        ("encoder=lookahead40", "encoder.left_context_ms=320", "encoder.conv_padding=symmetric"),
        ("encoder=buffered", "encoder.chunk_ms=120", "encoder.left_context_ms=360", "encoder.right_context_ms=200"),
    ],
)
def test_windows_give_the_frames_of_one_forward(
    run_config: Callable[..., DictConfig], speech_like: Callable[..., torch.Tensor], overrides: tuple[str, ...]
) -> None:
    model = ready(run_config(*overrides)).double()
    audio = speech_like(1, round(16000 * SPEECH_S))[0].double()
    with torch.no_grad():
        whole, valid = model(audio[None], torch.tensor([len(audio)]))
    windows = [frames for (frames,) in forward_in_windows(model, audio)]
    assert len(windows) > 3
    torch.testing.assert_close(torch.cat(windows), whole[0, : int(valid)], rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("overrides", "cap"),
    [
        (("encoder=lookahead40",), 10),
        # A chunk of frames is encoded before the stream begins.
        (("encoder=buffered", "encoder.chunk_ms=80", "encoder.right_context_ms=80"), 8),
    ],
    ids=["chunked", "buffered"],
)
def test_windows_of_an_unlimited_context_equal_its_stream(
    run_config: Callable[..., DictConfig],
    speech_like: Callable[..., torch.Tensor],
    overrides: tuple[str, ...],
    cap: int,
) -> None:
    model, audio = ready(run_config(*overrides)), speech_like(1, 80000)[0]
    session = StreamingSession(model, max_left_ms=400)
    found = compare_streaming_vs_offline(model, audio, 0.3, session=session)
    assert found.equal and found.max_left_ms == 400 and found.cap_frames is None and len(found.per_frame) == 125
    assert model.encoder.context.left is None
    exact = compare_streaming_vs_offline(model, audio[:15000], 0.3, session=session)
    assert exact.equal and exact.max_left_ms is None and exact.cap_frames == cap
    # A stream that keeps less than it should differs in the windows after the first.
    model.encoder.context = replace(model.encoder.context, left=8)
    frames, _ = simulate_streaming_inference(model, audio, 0.3)
    model.encoder.context = replace(model.encoder.context, left=None)
    other = compare_streaming_vs_offline(model, audio, session=session, streamed=frames)
    assert not other.equal and other.first_differing_frame == 10


def test_models_that_need_the_whole_recording_are_refused(run_config: Callable[..., DictConfig]) -> None:
    for override, cause in (("encoder=bidirectional", "right_context_ms=null"), ("encoder=causal", "left context")):
        with pytest.raises(UserError, match=rf"the recording is 2 s long, .*{cause}.* 1 s"):
            list(forward_in_windows(ready(run_config(override)), torch.zeros(32000)))
    model = ready(run_config("encoder=causal", "encoder.normalize=utterance", "encoder.allow_future_leak=true"))
    with pytest.raises(UserError, match=r"a\.wav is 7 s long, .*normalize=utterance.*: split the file"):
        require_windows(model, 7.0, "a.wav")


def test_rows_are_joined_without_a_copy_if_expected() -> None:
    rows, parts = Rows(5), [torch.randn(n, 3) for n in (2, 0, 3, 4)]
    for part in parts[:3]:
        rows.append(part)
    place = rows.joined.data_ptr()
    assert torch.equal(rows.joined, torch.cat(parts[:3])) and len(rows) == 5
    rows.append(parts[3])
    assert torch.equal(rows.joined, torch.cat(parts)) and rows.joined.data_ptr() != place


def save(model: Pretraining, path: Path) -> Path:
    stored: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(stored)
    torch.save(stored, path)
    return path


def test_commands_state_the_limit_of_long_recordings(
    run_config: Callable[..., DictConfig],
    speech_like: Callable[..., torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = save(ready(run_config("encoder=lookahead40")), tmp_path / "last.ckpt")
    for name, seconds in (("a", 3), ("b", 0.8), ("c", 0.9)):
        soundfile.write(tmp_path / f"{name}.wav", speech_like(1, round(16000 * seconds))[0].numpy(), 16000)
    lines = [{"id": name, "path": f"{name}.wav", "text": "go on"} for name in "abc"]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    limit = ("--max-left-ms", "480")
    assert main("stream", checkpoint, tmp_path / "a.wav", "--compare-modes", *limit, "--json", tmp_path / "s.json") == 0
    assert "the unlimited left context is limited to 0.48 s in both modes" in capsys.readouterr().out
    (record,) = json.loads((tmp_path / "s.json").read_text())
    assert record["comparison"]["max_left_ms"] == 480 and record["windowed"]
    assert main("probe", checkpoint, "--manifest", tmp_path / "m.jsonl", *limit) == 0
    note = "1 of 3 recordings are longer than 1 s: one frame in 1 is probed, with 0.48 s of left context; their texts"
    assert note in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(certificate, "PROBES", [])
    assert main("verify", checkpoint, "--audio", tmp_path / "a.wav", "--json", tmp_path / "v.json") == 0
    (check,) = json.loads((tmp_path / "v.json").read_text())["checks"]
    assert check["name"] == "streamed equals offline, a.wav" and check["declared"].startswith(
        "at most 1e-05, with 20 s"
    )
    for value in ("40", "1e9"):
        assert main("stream", checkpoint, tmp_path / "a.wav", "--max-left-ms", value) == 2
        assert "must be from 80 (one chunk of this encoder) to 3600000" in capsys.readouterr().err
