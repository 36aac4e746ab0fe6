"""Streams with adaptive look-ahead are saved with their choices, and continue as if they had not been."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import ready
from omegaconf import DictConfig
from recognizers import recognizer

from streamnest.downstream.asr.recognizer import StreamingRecognizer
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.streaming import StreamingSession
from streamnest.streaming.adaptive import AdaptiveSession, AdaptiveSettings

Compose = Callable[..., DictConfig]
Audio = Callable[..., torch.Tensor]
DYNAMIC = (
    "encoder=lookahead80",
    "+encoder.contexts={short: {left_context_ms: 160, right_context_ms: 0}, "
    "some: {left_context_ms: 480, right_context_ms: 80}, long: {right_context_ms: 320}}",
)


_BUILT: dict[str, Pretraining] = {}


@pytest.fixture
def model(run_config: Compose) -> Pretraining:
    """The same model in all tests, because composing a config takes longer than most of them."""
    return _BUILT.get("model") or _BUILT.setdefault("model", ready(run_config(*DYNAMIC, "encoder.normalize=online")))


def stored(saved: dict[str, Any]) -> Any:
    """Returns a saved stream after it was written to a file and read as data."""
    file = io.BytesIO()
    torch.save(saved, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


@pytest.mark.parametrize("rule", ["entropy", "preview", "energy", "random"])
def test_a_restored_stream_continues_exactly(model: Pretraining, speech_like: Audio, rule: str) -> None:
    """Pieces of 70 ms leave some saved streams with a choice whose samples have not arrived."""
    pieces = speech_like(1, 40000)[0].split(1120)
    whole = AdaptiveSession(model, AdaptiveSettings(130, rule))
    number, expected = whole.open(), []
    for piece in pieces:
        expected.append(whole.push({number: piece})[number])
    expected.append(whole.flush([number])[number])
    session = AdaptiveSession(model, AdaptiveSettings(130, rule))
    number, found, waiting = session.open(), [], 0
    for count, piece in enumerate(pieces):
        found.append(session.push({number: piece})[number])
        if count % 4:
            continue
        saved = stored(session.save(number))
        waiting += saved["adaptive"]["choice"] is not None
        session = AdaptiveSession(model, AdaptiveSettings(130, rule))
        session.open()  # so that the stream gets another number
        number = session.restore(saved)
    found.append(session.flush([number])[number])
    assert waiting
    assert session.flushed[number].choices == whole.flushed[0].choices
    assert all(map(torch.equal, found, expected))


def changed(saved: dict[str, Any], part: str, value: Any) -> dict[str, Any]:
    other = copy.deepcopy(saved)
    other["adaptive"][part] = value
    return other


def test_choices_that_were_modified_are_refused(model: Pretraining, speech_like: Audio) -> None:
    settings = AdaptiveSettings(130, "energy")
    session = AdaptiveSession(model, settings)
    number = session.open()
    session.push({number: speech_like(1, 30000)[0]})
    saved = session.save(number)
    adaptive = saved["adaptive"]
    frames, chunks = adaptive["frames"], adaptive["chunks"]
    for part, value in (
        *(("credit", x) for x in (0, math.nan, "1", adaptive["credit"] + 1)),
        *(("rule", x) for x in ([0.0] * 257, [math.nan], [1], "", None)),
        *(("choice", x) for x in ("full", 1, [])),
        *(
            ("frames", x)
            for x in (
                {},
                {**frames, "short": -1},
                {**frames, "full": 0},
                {**frames, "long": 1},
                {**frames, "short": 0},
                None,
            )
        ),
        *(("chunks", x) for x in (chunks[1:], [*chunks[1:], "full"], [[]], None, [])),
    ):
        with pytest.raises(UserError, match=r"adaptive|no record of its chunks"):
            session.restore(changed(saved, part, value))
    for other in ({**saved, "adaptive": None}, {k: v for k, v in saved.items() if k != "adaptive"}):
        with pytest.raises(UserError, match="adaptive of the saved stream is not valid"):
            session.restore(other)
    assert session.restore(saved) == number + 1, "no other stream was opened"


def test_a_stream_of_other_settings_is_refused(model: Pretraining) -> None:
    session = AdaptiveSession(model, AdaptiveSettings(130, "energy"))
    saved = session.save(session.open())
    for settings in (
        AdaptiveSettings(131, "energy"),
        AdaptiveSettings(130, "load"),
        AdaptiveSettings(130, "energy", ("short", "long")),
    ):
        with pytest.raises(UserError, match="same budget, rule and contexts"):
            AdaptiveSession(model, settings).restore(saved)
    with pytest.raises(UserError, match="another model or context"):
        StreamingSession(model).restore(saved)
    with pytest.raises(UserError, match="another model or context"):
        session.restore((plain := StreamingSession(model)).save(plain.open()))


def test_saving_without_records_keeps_counts_only(model: Pretraining, speech_like: Audio) -> None:
    session, audio = AdaptiveSession(model, AdaptiveSettings(130, "energy"), record=False), speech_like(1, 40000)[0]
    number = session.open()
    session.push({number: audio[:20000]})
    saved = session.save(number)
    # A chunk more, with the credit that it earns.
    more = {**saved["adaptive"]["frames"], "short": saved["adaptive"]["frames"]["short"] + 1}
    other = changed(changed(saved, "frames", more), "credit", saved["adaptive"]["credit"] + 130 - 22.5)
    with pytest.raises(UserError, match="contradict emitted"):
        session.restore(other)
    restored = session.restore(saved)
    session.push({number: audio[20000:], restored: audio[20000:]})
    assert session.history(number).frames == session.history(restored).frames
    with pytest.raises(UserError, match="restore it in a session with record=False"):
        AdaptiveSession(model, AdaptiveSettings(130, "energy")).restore(saved)


def test_a_restored_recognizer_writes_the_same_text(run_config: Compose, speech_like: Audio) -> None:
    model, settings = recognizer(run_config("task=ctc", "encoder=dynamic")), AdaptiveSettings(120, "random")
    pieces, texts = speech_like(1, 40000)[0].split(10000), []
    for interrupted in (False, True):
        stream, text = StreamingRecognizer(model, adaptive=settings), ""
        for piece in pieces:
            text += stream.push(piece)
            if interrupted:
                saved = stored(stream.save())
                stream = StreamingRecognizer(model, adaptive=settings)
                stream.restore(saved)
        texts.append(text + stream.flush())
    assert texts[0] == texts[1] and len(set(texts[0])) > 3
