"""Untrusted names are printed as text: they neither end a command nor control the terminal."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpus import make_cut, write_manifest
from inprocess import main
from matplotlib.figure import Figure
from rich.table import Table

from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import PlainFormatter, Terminal, caption, plain, printable
from streamnest.errors import UserError
from streamnest.reporting.panels import panel, show

NASTY = "a[/b] :smile: $x_$ \x1b[2J\x9b31m\u202e\u2028\x07"
RAW = set("\x1b\x9b\x07\u202e\u2028")


def test_control_characters_and_directions_become_escapes() -> None:
    assert printable("a[/b]\x1b[2J\u202e\n\udcff") == r"a[/b]\x1b[2J\u202e\n\udcff"
    for text in ("día 日本 क्\u200dष", "a\u00a0b", ""):
        assert printable(text) == text


def test_a_console_prints_markup_as_text() -> None:
    file = io.StringIO()
    table = Table(title=NASTY)
    table.add_column(NASTY)
    table.add_row(NASTY)
    Terminal(file=file, width=200).print(table, NASTY, plain(NASTY, "red"), sep="\n")
    assert file.getvalue().count("a[/b] :smile: $x_$ \\x1b[2J\\x9b31m\\u202e\\u2028\\x07") == 5
    assert not RAW & set(file.getvalue())


def test_panels_logs_and_errors_print_text(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    show(panel(NASTY, [[(NASTY, NASTY)]], [("continue", NASTY)]), Terminal(file=file, width=200))
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "%s", (NASTY,), None)

    @without_trace
    def fails() -> int:
        logging.getLogger("nobody").warning(NASTY)
        raise UserError(NASTY)

    assert fails() == 2
    for text in (file.getvalue(), PlainFormatter().format(record), capsys.readouterr().err):
        assert "a[/b]" in text and not RAW & set(text)


def test_captions_with_dollar_signs_can_be_plotted() -> None:
    figure = Figure()
    figure.suptitle(caption(r"a$\frac{$b"))
    figure.savefig(io.BytesIO())


def test_commands_accept_files_with_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(32000).astype(np.float32)
    cuts = [make_cut(tmp_path, f"{n}-a[b] :x: $y_$ \x1b[2J", noise) for n in range(3)]
    Path(cuts[0].recording.sources[0].source).write_text("not audio")
    manifest = write_manifest(tmp_path / "a[red]$x_$\x1b[2J.jsonl", cuts)
    assert main("inspect", manifest, "--picture", tmp_path / "p.png") == 1
    found = capsys.readouterr()
    assert r"a[b] :x: $y_$ \x1b[2J" in found.out and not RAW & set(found.out + found.err)
    soundfile.write(tmp_path / "b[z]\x1b[2J.wav", noise, 16000)
    assert main("transcribe", tmp_path / "no[/b]\x1b[2J.ckpt", tmp_path) == 2
    assert r"no[/b]\x1b[2J.ckpt" in capsys.readouterr().err
