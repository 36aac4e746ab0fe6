from __future__ import annotations

import re
from pathlib import Path

import pytest
import soundfile
import torch
from recognizers import recognizer

DOCS = Path(__file__).parents[2] / "docs"


def snippets(page: str) -> list[str]:
    """Returns the Python code of a page."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)


SNIPPETS = snippets("DOWNSTREAM.md")


@pytest.fixture
def folder(run_config, speech_like, tmp_path, monkeypatch):
    model = recognizer(run_config("task=ctc", "encoder=lookahead40"))
    saved = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(saved)
    torch.save(saved, tmp_path / "last.ckpt")
    audio = speech_like(1, 32000)
    soundfile.write(tmp_path / "talk.wav", audio[0].numpy(), 16000)
    monkeypatch.chdir(tmp_path)
    return model, audio


def test_the_snippets_of_the_page_run(folder, capsys):
    model, audio = folder
    for snippet in SNIPPETS:
        exec(snippet, {"microphone": list(audio[0].split(3000))})
    streamed, frames = capsys.readouterr().out.splitlines()
    assert streamed == model.recognize(audio, torch.tensor([32000]))[0] and len(streamed) > 3
    assert frames == "torch.Size([1, 50, 32]) look-ahead 42.4 ms"


def test_the_session_on_its_page_streams(folder):
    _, audio = folder
    names = {"microphone": list(audio[0].split(3000))}
    (snippet,) = snippets("STREAMING.md")
    exec(snippet, names)
    assert names["frames"].shape[1] == names["tail"].shape[1] == 32


def test_the_own_code_takes_about_ten_lines():
    assert len([line for line in SNIPPETS[-1].splitlines() if line]) <= 10
