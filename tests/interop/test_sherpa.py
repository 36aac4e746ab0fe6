"""Files for sherpa-onnx: what they contain, and that the runtime gives the text of the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from inprocess import main
from omegaconf import DictConfig
from recognizers import recognizer, transducer

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from streamnest.checkpoint.loading import write_checkpoint
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.recognizer import StreamingRecognizer
from streamnest.downstream.asr.vocabulary import CharTokenizer
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.interop.sherpa.export import check_frontend, export_sherpa
from streamnest.interop.sherpa.outputs import CTCOutput
from streamnest.interop.sherpa.step import _pack, _unpack
from streamnest.interop.sherpa.tokens import write_tokens

ROOT = Path(__file__).parents[2]
SMALL = ("size.num_layers=1", "encoder.left_context_ms=480")
# The runtime emits as many tokens in a frame.
RNNT = ("task=rnnt", "task.max_symbols=10", "frontend.kind=sherpa", *SMALL)
DELAYED = ("encoder=lookahead40", "encoder.style=delayed")
Compose = Callable[..., DictConfig]
Audio = Callable[..., torch.Tensor]


def speech(chunks: int, window: int) -> np.ndarray:
    """Returns real speech of a length at which the runtime and streamnest have emitted as many chunks."""
    path = ROOT / "data/sample16k/speech/asterisk_en-demo-moreinfo.ogg"
    return soundfile.read(path, dtype="float32", frames=160 * window * chunks + 300)[0]


def runtime_texts(recognizer: Any, rows: Sequence[np.ndarray], size: int) -> list[str]:
    """Transcribes rows together, in pieces of `size` samples."""
    streams = [recognizer.create_stream() for _ in rows]
    for start in range(0, max(map(len, rows)), size):
        for stream, row in zip(streams, rows, strict=True):
            if start < len(row):
                stream.accept_waveform(16000, row[start : start + size])
        while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
            recognizer.decode_streams(ready)
    return [recognizer.get_result(stream) for stream in streams]


def check_texts(model: TextTask, runtime: Any, window: int) -> None:
    """Compares texts of real speech: whole, in odd pieces, and of two streams at once."""
    rows = [speech(45, window), speech(75, window)[30 * 160 * window :]]
    # The runtime removes spaces around a text.
    expected = [StreamingRecognizer(model).push(torch.from_numpy(row)).strip() for row in rows]
    assert all(len(text) > 20 and len(set(text)) > 3 for text in expected)
    assert runtime_texts(runtime, rows[:1], 1 << 20) == expected[:1]
    assert runtime_texts(runtime, rows[:1], 333) == expected[:1]
    assert runtime_texts(runtime, rows, 5001) == expected


def test_export_writes_the_files_that_the_runtime_requires(
    run_config: Compose, speech_like: Audio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    model = recognizer(run_config("task=ctc", "encoder=causal", "encoder.subsampling_factor=8", *SMALL))
    write_checkpoint(model, tmp_path / "m.ckpt")
    soundfile.write(tmp_path / "talk.wav", speech_like(1, 40000)[0].numpy(), 16000, subtype="FLOAT")
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    words = (tmp_path / "m.ckpt", out, "--format", "sherpa", "--audio-path", tmp_path / "talk.wav", "--json", figures)
    assert main("export", *words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "append at least 98 ms of silence" in shown and "features begin 5 ms later" in shown
    assert sorted(path.name for path in out.iterdir()) == ["model.int8.onnx", "model.onnx", "tokens.txt"]
    lines = (out / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["\u2581 0", "a 1"] and lines[-1] == "<blk> 17" and len(lines) == 18
    for name in ("model.onnx", "model.int8.onnx"):
        session = onnxruntime.InferenceSession(out / name)
        entries = session.get_modelmeta().custom_metadata_map
        # A frame of 80 ms is written twice, because the runtime computes times with 40 ms.
        expected = {"window_size": "8", "chunk_shift": "8", "subsampling_factor": "4", "vocab_size": "17"}
        assert expected.items() <= entries.items()
        sizes = [[int(entries[f"cache_last_{kind}_dim{n}"]) for n in (1, 2, 3)] for kind in ("channel", "time")]
        audio, length, *states = [x.shape[1:] for x in session.get_inputs()]
        assert (audio, length, states) == ([80, 8], [], [*sizes, []])
        assert session.get_outputs()[0].shape[1:] == [2, 18]
    found = json.loads(figures.read_text())
    exact, quantized = found["files"].values()
    assert exact["max_difference"] < 1e-4 < quantized["max_difference"] < 1.0
    assert found["latency"]["extra_ms"] == 15.0 and found["latency"]["first_ms"] == 97.5
    assert 1e-3 < found["features"]["mean_difference"] < 0.1
    assert str(ROOT).encode() not in (out / "model.onnx").read_bytes()
    assert main("transcribe", out / "model.onnx", tmp_path / "talk.wav") == 2
    assert "is for sherpa-onnx" in capsys.readouterr().err


def test_the_runtime_gives_the_text_of_ctc(run_config: Compose, tmp_path: Path) -> None:
    sherpa_onnx = pytest.importorskip("sherpa_onnx")
    overrides = ("encoder=lookahead40", "encoder.subsampling_padding=shifted", "frontend.kind=sherpa")
    model = recognizer(run_config("task=ctc", *overrides, *SMALL))
    export_sherpa(model, tmp_path)
    tokens, name = str(tmp_path / "tokens.txt"), str(tmp_path / "model.onnx")
    check_texts(model, sherpa_onnx.OnlineRecognizer.from_nemo_ctc(tokens, name), 8)
    int8 = sherpa_onnx.OnlineRecognizer.from_nemo_ctc(tokens, name.replace(".onnx", ".int8.onnx"))
    assert len(runtime_texts(int8, [speech(45, 8)], 8000)[0]) > 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("window", "overrides"),
    [
        (8, ("encoder=lookahead40", "task.context_size=3")),
        (
            4,
            (
                "encoder=lookahead40",
                "encoder.style=delayed",
                "task.prediction_network=lstm",
                "task.prediction_layers=2",
            ),
        ),
    ],
)
def test_the_runtime_gives_the_text_of_transducers(
    run_config: Compose, tmp_path: Path, window: int, overrides: tuple[str, ...]
) -> None:
    sherpa_onnx = pytest.importorskip("sherpa_onnx")
    model = transducer(run_config(*RNNT, *overrides))
    files = export_sherpa(model, tmp_path)
    paths = [str(tmp_path / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")]
    assert [str(files.steps[0]), *map(str, files.others)] == paths
    check_texts(model, sherpa_onnx.OnlineRecognizer.from_transducer(str(tmp_path / "tokens.txt"), *paths), window)


def test_models_that_the_runtime_cannot_run_are_refused(run_config: Compose, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sample_rate=8000 instead of 16000, hop=80 instead of 160"):
        check_frontend(LogMel(sample_rate=8000))
    with pytest.raises(UserError, match="white space"):
        write_tokens(CharTokenizer(["a", "\u3000"]), tmp_path / "tokens.txt")
    with pytest.raises(UserError, match="for bytes"):
        write_tokens(CharTokenizer(["a", "\u01a1"]), tmp_path / "tokens.txt")
    model = recognizer(run_config("task=ctc", "encoder=causal", *SMALL))
    write_checkpoint(model, tmp_path / "m.ckpt")
    for words in (("out.onnx",), ("out", "--dynamic-batch")):
        assert main("export", tmp_path / "m.ckpt", tmp_path / words[0], "--format", "sherpa", *words[1:]) == 2


def test_packed_states_keep_double_precision() -> None:
    states = {"sum": torch.rand(2, 3, dtype=torch.float64) * 1e3, "past": torch.rand(2, 4, 5)}
    found = _unpack(_pack(states.values()), states)
    assert found.keys() == states.keys() and torch.equal(found["past"], states["past"])
    # A float32 alone would be 6e-5 off.
    torch.testing.assert_close(found["sum"], states["sum"], rtol=0, atol=1e-9)


def test_frames_before_a_stream_are_blanks() -> None:
    head = torch.nn.Linear(4, 3)
    torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([0.0, 9.0, 1.0]))
    out = CTCOutput(head, 4)(torch.zeros(1, 2, 4), torch.tensor([[False, True]]))
    assert out.argmax(-1).tolist() == [[2, 0]]
