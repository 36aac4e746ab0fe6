"""Command lines: help pages, spellings of options, and error messages."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from streamnest.cli import COMMANDS, main
from streamnest.commands.arguments import export, prepare, shard, stream, train
from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import (
    NOT_NEGATIVE,
    POSITIVE,
    THREADS,
    THRESHOLD,
    output_file,
    output_folder,
    output_plot,
)

ROOT = Path(__file__).parents[2]
MODULES = [name.replace("-", "_") for name in COMMANDS if name != "train"]
# Fails if the arguments of a command import what only its work needs.
WITHOUT_HEAVY_IMPORTS = """
import sys
from streamnest.cli import COMMANDS, main
for name in ["", *COMMANDS]:
    try:
        main([*name.split(), "--help"])
    except SystemExit as end:
        assert end.code == 0, name
    heavy = {"torch", "lightning", "hydra", "lhotse", "matplotlib", "numpy"} & set(sys.modules)
    assert not heavy, (name, heavy)
"""


def parser() -> ArgumentParser:
    made = ArgumentParser("streamnest x", None, {"--picture": "--plot"})
    made.add_argument("files", nargs="*")
    made.add_argument("--chunk-size", type=float, default=0.5, help="seconds")
    made.add_argument("--plot", help="path")
    made.add_argument("--seed", type=int, default=0, help="seed (of the sample)")
    made.add_argument("--level", type=NOT_NEGATIVE, default=0.5)
    made.add_argument("--piece", type=POSITIVE)
    made.add_argument("--least", type=THRESHOLD)
    group = made.add_argument_group("group")
    group.add_argument("--threads", type=THREADS)
    group.add_argument("--json", type=output_file)
    group.add_argument("--image", type=output_plot)
    group.add_argument("--out", type=output_folder)
    return made


def test_help_of_every_command_loads_no_heavy_library() -> None:
    words = [sys.executable, "-c", WITHOUT_HEAVY_IMPORTS]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_fits_the_terminal_and_100_columns(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for name in MODULES:
        page = importlib.import_module(f"streamnest.commands.arguments.{name}").parser().format_help()
        assert max(map(len, page.splitlines())) <= min(100, int(columns)), name


def test_former_and_underscore_spellings_of_options_are_accepted() -> None:
    args = parser().parse(["a", "--chunk_size=2", "--picture", "p.png", "b", "--", "--picture"])
    assert (args.files, args.chunk_size, args.plot) == (["a", "b", "--picture"], 2.0, "p.png")
    assert "--chunk-size X" in parser().format_help() and "seconds (default: 0.5)" in parser().format_help()
    assert "seed (of the sample; default: 0)" in parser().format_help()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--chunksize", "2"], "there is no option --chunksize: did you mean --chunk-size?"),
        (["--chunk-size", "x\x1b[2J"], r"'x\x1b[2J' is not a number: give a finite number"),
        (["--chunk-size", "nan"], "argument --chunk-size: nan is out of range: give a finite number"),
        (["--seed", "1e3"], "argument --seed: '1e3' is not a whole number: give a whole number"),
        (["--seed", "9" * 20], "is out of range: give a whole number"),
        (["--least", "1"], "argument --least: 1 is out of range: give a number above 0 and below 1"),
        (["--least", "0"], "argument --least: 0 is out of range: give a number above 0 and below 1"),
        (["--level", "-1e-3"], "argument --level: -1e-3 is out of range: give a number of at least 0"),
        (["--level", "-inf"], "argument --level: -inf is out of range"),
        (["--threads", "0"], "argument --threads: 0 is out of range: give a whole number from 1 to 1024"),
        (["--piece", "0"], "argument --piece: 0 is out of range: give a number above 0"),
        (["--json", "/"], "argument --json: / is a folder: give the name of a file"),
        (["--json", f"{__file__}/x/y.json"], f"cannot be written: {__file__} is not a folder"),
        (["--json", "x" * 300 + "/y.json"], "cannot be written: File name too long"),
        (["--image", "a.jpg"], "argument --image: a.jpg must end in .png, .svg or .pdf"),
        (["--out", __file__], f"argument --out: {__file__} cannot be written: {__file__} is not a folder"),
        (["--level", "1"], "--level has no effect without --plot: add it, or leave --level out"),
        (["--\x1b]0;x"], r"there is no option --\x1b]0;x"),
        (["--store", "s3://user:password@host/x"], "there is no option --store"),
    ],
)
def test_errors_exit_with_2_and_print_one_safe_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    made = parser()
    with pytest.raises(SystemExit, match="2"):
        made.require(made.parse(words), "level", needs="plot")
    text = capsys.readouterr().err
    assert message in text and text.count("\n") == 1 and "\x1b" not in text and "password" not in text


@pytest.mark.parametrize("output", ["x.onnx", "folder"])
def test_an_export_that_cannot_be_written_is_refused_at_once(capsys: pytest.CaptureFixture[str], output: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        export.parse(["missing.ckpt", f"{__file__}/{output}"])
    assert f"{output} cannot be written: {__file__} is not a folder" in capsys.readouterr().err


def test_unknown_commands_name_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["strem\x1b"]) == 2
    assert "did you mean stream?" in capsys.readouterr().err
    assert main([]) == 2 and main(["--version"]) == 0
    assert "streamnest 0." in capsys.readouterr().out


def test_help_page_of_training_resolves_its_references() -> None:
    assert "${" not in train.page() and "COMMANDS" in train.page() and "OUTPUT" in train.page()


def test_defaults_of_arguments_equal_those_of_the_work() -> None:
    from streamnest.data.recipes.registry import RECIPES
    from streamnest.data.shards.index import FORMATS
    from streamnest.encoder.state import STREAM_LEFT_MS

    assert export.parse(["a", "b"]).max_left_ms == STREAM_LEFT_MS
    assert export.SPEECH.is_file() and shard.FORMATS == FORMATS
    assert {name: recipe.uses for name, recipe in RECIPES.items()} == prepare.arguments.USES
    assert stream.parse(["a", "b"]).chunk_size is None
