"""A recognizer that writes text on noise, and the text of recognition with `transcribe --stream`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from recognizers import mean_frame

from streamnest.checkpoint.loading import load_model
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.recognizer import StreamingRecognizer

STORED = Path(__file__).parents[1] / "fixtures/stored/ctc.ckpt"


@pytest.fixture(scope="session")
def chromium() -> Callable[..., Any]:
    """Returns a context manager that starts a headless Chromium with further arguments.

    A test is skipped without playwright, without a Chromium, and if it does not start.
    """

    @contextmanager
    def start(*arguments: str) -> Iterator[Any]:
        playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if path is None:
            pytest.skip("needs Chromium")
        with playwright.sync_playwright() as started:
            try:
                browser = started.chromium.launch(executable_path=path, chromium_sandbox=False, args=list(arguments))
            except playwright.Error as error:
                pytest.skip(f"Chromium does not start: {error.message.splitlines()[0]}")
            yield browser
            browser.close()

    return start


@pytest.fixture(scope="package")
def recognizer() -> TextTask:
    model = load_model(STORED)
    assert isinstance(model, TextTask)
    with torch.no_grad():
        model.head.bias.copy_(-model.head.weight @ mean_frame(model))
    return model


@pytest.fixture
def audio(speech_like: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Returns samples `(n,)` that int16 represents exactly."""
    return lambda samples, seed=0: (32768 * speech_like(1, samples, seed)[0]).round().clamp(-32768, 32767) / 32768


@pytest.fixture
def text_of(recognizer: TextTask) -> Callable[[torch.Tensor], str]:
    """Returns the text of a stream in pieces of 160 ms, as `transcribe --stream` computes it."""

    def recognize(samples: torch.Tensor) -> str:
        stream = StreamingRecognizer(recognizer)
        return "".join([*map(stream.push, samples.split(2560)), stream.flush()])

    return recognize
