"""A page that runs an exported model in the browser, compared with Python.

Runs with STREAMNEST_ONNXRUNTIME_WEB, the folder dist of the unpacked npm package onnxruntime-web.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from streamnest.checkpoint.loading import load_model
from streamnest.data.conversations.simulation import clipped
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.exported import ExportedDiarizer, ExportedRecognizer
from streamnest.errors import UserError
from streamnest.serving.static_page import RUNTIME, runtime_folder, write_static
from streamnest.streaming.export import export_step
from streamnest.streaming.onnx_session import OnnxSession

WAIT_MS = 60_000
DIST = os.environ.get("STREAMNEST_ONNXRUNTIME_WEB")
STORED = Path(__file__).parents[1] / "fixtures/stored"
OUTPUTS = """async (samples) => {
    const { backend } = await import("./backend.js");
    const outputs = [];
    await new Promise((resolve, reject) => {
        const connection = backend.connect((message) => {
            if (message.type === "error") reject(new Error(message.message));
            outputs.push(...(message.outputs ?? []));
            if (message.type === "final") resolve();
        });
        connection.open({ outputs: true });
        for (let at = 0; at < samples.length; at += 777) {
            connection.send(Int16Array.from(samples.slice(at, at + 777)).buffer);
        }
        connection.end();
    });
    return outputs;
}"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""


@pytest.fixture
def pages(tmp_path: Path, recognizer: TextTask) -> Iterator[tuple[str, Path]]:
    """Serves folders with a recognizer and a diarizer; yields the address and their parent."""
    if DIST is None:
        pytest.skip("needs STREAMNEST_ONNXRUNTIME_WEB, the folder dist of the npm package onnxruntime-web")
    pytest.importorskip("onnxruntime")
    graph = tmp_path / "step.onnx"
    for name, model in (("text", recognizer), ("turns", load_model(STORED / "diarization.ckpt"))):
        export_step(model, graph, max_left_ms=1000)
        write_static(graph, exported(graph), tmp_path / name, runtime_folder(Path(DIST)))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path
    server.shutdown()
    thread.join(WAIT_MS / 1000)
    server.server_close()


def exported(graph: Path) -> ExportedRecognizer | ExportedDiarizer:
    session = OnnxSession(graph)
    return ExportedRecognizer.of(session) or ExportedDiarizer(session)


def test_results_in_the_browser_equal_those_of_python(
    pages: tuple[str, Path],
    chromium: Callable[..., Any],
    audio: Callable[..., torch.Tensor],
    text_of: Callable[[torch.Tensor], str],
) -> None:
    address, folder = pages
    samples = audio(16001, 3)
    soundfile.write(folder / "speech.wav", samples.numpy(), 16000, subtype="PCM_16")
    with chromium() as browser:
        for name in ("text", "turns"):
            page = browser.new_page()
            page.set_default_timeout(WAIT_MS)
            page.goto(f"{address}/{name}/")
            outputs = torch.tensor(page.evaluate(OUTPUTS, (samples * 32768).int().tolist()))
            model = exported(folder / name / "model.onnx")
            expected = model.frames(samples)
            assert outputs.shape == expected.shape and (outputs - expected).abs().max() < 1e-4
            page.get_by_label("Choose a file").set_input_files(folder / "speech.wav")
            page.locator("#status", has_text="Finished.").wait_for()
            results = (
                turns_of(expected, model, 16001 / 16000) if isinstance(model, ExportedDiarizer) else text_of(samples)
            )
            assert page.text_content("#text p") == results and len(results) > 3
            assert float(page.inner_text("#speed")) > 0
            page.close()


def turns_of(outputs: torch.Tensor, model: ExportedDiarizer, seconds: float) -> str:
    turns = clipped(model.turns(model.decision(outputs)), seconds)
    return "".join(f"{turn.start:.2f}–{turn.end:.2f} s  {turn.speaker}\n" for turn in turns)


def test_a_missing_runtime_and_other_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--static needs --onnxruntime-web FOLDER: unpack the npm package"):
        runtime_folder(None)
    (tmp_path / RUNTIME[0]).touch()
    with pytest.raises(UserError, match=rf"has no {RUNTIME[1]}: unpack"):
        runtime_folder(tmp_path)
    with pytest.raises(UserError, match="not of task=ctc or task=diarization"):
        write_static("rnnt.ckpt", load_model(STORED / "rnnt.ckpt"), tmp_path / "out", tmp_path)
