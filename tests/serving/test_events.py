"""Events of a server as lines of JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from streamnest.downstream.asr.recognition import TextTask
from streamnest.errors import UserError
from streamnest.serving.access import Access
from streamnest.serving.events import write_events

for package in ("uvicorn", "starlette", "websockets"):
    pytest.importorskip(package)
from live_server import int16, next_message, received, running  # noqa: E402

TOKEN = "0123456789abcdef"


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Path]:
    """Writes events to a file during a test."""
    logger = logging.getLogger("streamnest.serving.events")
    write_events(tmp_path / "events.jsonl")
    yield tmp_path / "events.jsonl"
    logger.handlers.pop().close()
    logger.propagate, logger.level = True, logging.NOTSET


def test_events_name_outcomes_but_no_text_or_secret(
    written: Path, recognizer: TextTask, audio: Callable[..., torch.Tensor]
) -> None:
    with running(recognizer, access=Access(token=TOKEN)) as server:
        socket = server.open(token=TOKEN)
        key = next_message(socket)["resume"]
        socket.send(int16(audio(16000)))
        socket.send('{"end": true}')
        text = received(socket)[-1]["text"]
        received(server.open(token="wrong-token-0000"))
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert {"opened", "left", "closed", "refused", "stopping"} <= {line["event"] for line in lines}
    (left,) = (line for line in lines if line["event"] == "left")
    assert left["outcome"] == "finished" and left["samples"] == 16000 and left["time"].endswith("+00:00")
    content = written.read_text()
    assert not any(secret in content for secret in (text, key, TOKEN, "wrong-token")) and len(text) > 3


def test_events_need_a_file_that_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"events\.jsonl cannot be written"):
        write_events(tmp_path / "missing" / "events.jsonl")
