"""Folder trees of audio files, with optional transcripts beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streamnest.data.recipes.files import NOT_READ, READ, reading, walk
from streamnest.data.recipes.options import Recipe, RecipeOptions
from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.errors import UserError

LAYOUT = f"""  SOURCE/**/*  ending in {", ".join(sorted(READ))}
  SOURCE/**/*.txt  optional: the transcript of the audio file of the same name"""
# Parts whose recordings are never segmented.
_NOT_SPEECH = ("noise", "music", "rir")


def read_folder(options: RecipeOptions) -> Iterator[Piece | Dropped]:
    """Reads every audio file, as an utterance if it has a transcript; reports unsupported formats."""
    if not options.source.is_dir():
        raise UserError(f"{options.source} is not a folder: use manifest, kaldi or lhotse for lists of files")
    divisible = not (options.part or "").startswith(_NOT_SPEECH)
    for path in walk(options.source, READ | NOT_READ):
        name = path.relative_to(options.source)
        if path.suffix.lower() in NOT_READ:
            yield Dropped(str(path), "unsupported format", f"convert {path.suffix} to flac")
            continue
        folders = name.parts[:-1]
        speaker = folders[options.speaker_level - 1] if 0 < options.speaker_level <= len(folders) else None
        text = _transcript(path)
        whole = divisible and text is None
        yield Piece(name.with_suffix("").as_posix(), path, options.part, speaker=speaker, text=text, divisible=whole)


def _transcript(path: Path) -> str | None:
    """Returns the text of the file with the suffix .txt beside an audio file; None if there is none."""
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        return None
    with reading(beside) as lines:
        return " ".join(" ".join(lines).split()) or None


RECIPES = {"folder": Recipe(read_folder, LAYOUT, ("part", "speaker_level"))}
