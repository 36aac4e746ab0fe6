"""RTTM files of evaluations and tools."""

from __future__ import annotations

import random
import string
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamnest.data.conversations.rttm import load_excerpts, read_rttm, turns_of, write_rttm
from streamnest.data.conversations.simulation import Turn
from streamnest.errors import UserError

LINE = "SPEAKER m1 1 0.50 4.25 <NA> <NA> alice <NA> <NA>"
TURNS = {"m1": [Turn("alice", 0.5, 4.75)]}


@pytest.mark.parametrize(
    "text",
    [
        f";; by hand\n\n{LINE}",
        f"# by hand\n{LINE}",
        f"NON-SPEECH m1 1 6.0 2.0 <NA> noise <NA> <NA> <NA>\n{LINE}",
        f"SPKR-INFO m1 1 <NA> <NA> <NA> unknown alice <NA> <NA>\n{LINE}",
        f"LEXEME m1 1 0.5 0.2 hello lex alice 0.9 <NA>\n{LINE}\nNOSCORE m1 1 9.0 3.0 <NA> <NA> <NA> <NA> <NA>",
        f"\ufeff{LINE}",
        LINE.replace(" ", "\t") + "\r\n",
        LINE.removesuffix(" <NA>"),
        LINE.removesuffix(" <NA> <NA>"),
        LINE.replace(" 1 ", " A "),
    ],
)
def test_only_speaker_lines_are_turns(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.rttm").write_text(text, encoding="utf-8")
    assert read_rttm(tmp_path / "a.rttm") == TURNS


@pytest.mark.parametrize(
    "line",
    [
        LINE.replace("4.25", "nan"),
        LINE.replace("4.25", "-1"),
        LINE.replace("0.50", "-0.5"),
        LINE.replace("0.50", "inf"),
        LINE.replace("0.50", "<NA>"),
        LINE.replace("alice", "alice b"),
        "SPEAKER m1 1 0.5",
        "no turns here",
    ],
)
def test_an_invalid_line_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.rttm").write_text(f"{LINE}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.rttm:2"):
        read_rttm(tmp_path / "a.rttm")


@pytest.mark.parametrize("name", ["my talk", "a\u00a0b", "a\u2028b", "o\u0308", "größer"])
def test_turns_are_found_under_the_name_they_were_written_for(tmp_path: Path, name: str) -> None:
    write_rttm(tmp_path / "a.rttm", {name: [Turn("a b", 0.0, 1.0)], "other": []})
    assert turns_of(tmp_path / "a.rttm", name, of_one=False) == [Turn("a_b", 0.0, 1.0)]


def test_names_that_become_equal_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the same name in RTTM"):
        write_rttm(tmp_path / "a.rttm", {"a b": [], "a_b": []})


def test_unreadable_recordings_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile.write(tmp_path / "a.w64", np.zeros(16000), 16000)
    (tmp_path / "b.wav").write_bytes(b"nothing")
    (tmp_path / "c.wav").mkdir()
    for name in "abc":
        write_rttm(tmp_path / f"{name}.rttm", {name: [Turn("x", 0.0, 0.5)]})
    assert [cut.id for cut in load_excerpts(tmp_path)] == ["a"] and "b.wav is not used" in caplog.text
    (tmp_path / "a.w64").unlink()
    with pytest.raises(UserError, match="none of its 1"):
        load_excerpts(tmp_path)


def test_random_content_is_read_or_refused(tmp_path: Path) -> None:
    rng, path = random.Random(0), tmp_path / "a.rttm"
    pieces = [*string.printable, "\u2028", "\ufeff", "nan", "-1", "1e999", "<NA>", ";;", "SPEAKER", "\n"]
    for _ in range(200):
        text = list(f"{LINE}\n;; c\n{LINE}\n")
        for _ in range(rng.randint(1, 5)):
            text[rng.randrange(len(text))] = rng.choice(pieces)
        data = "".join(text).encode()
        path.write_bytes(data[: rng.randint(0, len(data))] if rng.random() < 0.2 else data)
        try:
            found = read_rttm(path)
        except UserError:
            continue
        assert all(0 <= turn.start <= turn.end < float("inf") for turns in found.values() for turn in turns)
