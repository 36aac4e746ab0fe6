"""Any tree of audio files."""

from __future__ import annotations

from collections.abc import Iterator

from streamnest.data.recipes.files import NOT_READ, READ, walk
from streamnest.data.recipes.options import Options, Recipe
from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.errors import UserError

LAYOUT = f"  SOURCE/**/*  ending in {', '.join(sorted(READ))}"
# Their recordings are used as they are, however long.
_NOT_SPEECH = ("noise", "music", "rir")


def read_folder(options: Options) -> Iterator[Piece | Dropped]:
    """Every audio file is a recording; audio of kinds that are not read is reported."""
    if not options.source.is_dir():
        raise UserError(f"{options.source} is no folder; for lists of files there are manifest, kaldi and lhotse")
    divisible = not (options.part or "").startswith(_NOT_SPEECH)
    for path in walk(options.source, READ | NOT_READ):
        name = path.relative_to(options.source)
        if path.suffix.lower() in NOT_READ:
            yield Dropped(str(path), "format is not read", f"convert {path.suffix} to flac")
            continue
        folders = name.parts[:-1]
        speaker = folders[options.speaker_level - 1] if 0 < options.speaker_level <= len(folders) else None
        yield Piece(name.with_suffix("").as_posix(), path, options.part, speaker=speaker, divisible=divisible)


RECIPES = {"folder": Recipe(read_folder, LAYOUT, ("part", "speaker_level"))}
