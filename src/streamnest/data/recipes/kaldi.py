"""Kaldi data folders.

Lhotse's own import opens every file as it goes and stops at the first that is damaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streamnest.data.recipes.options import Options, Recipe
from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.errors import UserError

LAYOUT = """  SOURCE/wav.scp, and where there are: segments, utt2spk, text
  (or a folder of such folders, each named after its part: train, dev ...)
  paths in wav.scp are relative to --audio, else to the working folder, as in Kaldi"""


def read_kaldi(options: Options) -> Iterator[Piece | Dropped]:
    """Utterances of `segments`; without it each recording of `wav.scp` is an utterance."""
    if (options.source / "wav.scp").is_file():
        folders = [(options.part, options.source)]
    else:
        folders = [(path.parent.name, path.parent) for path in sorted(options.source.glob("*/wav.scp"))]
    if not folders:
        raise UserError(f"{options.source / 'wav.scp'} is missing: a Kaldi folder is expected as\n{LAYOUT}")
    for part, folder in folders:
        yield from _read(folder, part, options.audio)


def _read(folder: Path, part: str | None, audio: Path | None) -> Iterator[Piece | Dropped]:
    speakers, texts = _table(folder / "utt2spk"), _table(folder / "text")
    paths = {}
    for name, value in _table(folder / "wav.scp").items():
        if value.endswith("|"):
            # Running what a data file says is not safe, and nothing of it could be kept for training.
            yield Dropped(f"{folder / 'wav.scp'}: {name}", "a command, not a file", value)
        else:
            paths[name] = (audio or Path.cwd()) / value
    if not (folder / "segments").is_file():
        for name, path in paths.items():
            text = texts.get(name)
            yield Piece(name, path, part, 0.0, None, speakers.get(name), text, divisible=not text)
        return
    for name, value in _table(folder / "segments").items():
        try:
            recording, start, end = value.split()
            if recording in paths:
                duration = float(end) - float(start)
                yield Piece(name, paths[recording], part, float(start), duration, speakers.get(name), texts.get(name))
        except ValueError:
            yield Dropped(f"{folder / 'segments'}: {name}", "broken line", value)


def _table(path: Path) -> dict[str, str]:
    """First word of each line to the rest; empty where there is no such file."""
    if not path.is_file():
        return {}
    rows = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {row[0]: row[1].strip() if len(row) > 1 else "" for row in rows if row}


RECIPES = {"kaldi": Recipe(read_kaldi, LAYOUT, ("audio", "part"))}
