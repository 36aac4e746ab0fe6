"""Corpora whose lists Lhotse's own recipes read: LibriSpeech, AISHELL-1, MUSAN, RIRS_NOISES.

Those recipes read the header of every file and stop at the first damaged one. Here they read only the lists;
`measuring` opens the audio once and tolerates damaged files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lhotse import AudioSource, Recording
from lhotse.recipes import prepare_aishell, prepare_librispeech, prepare_musan, prepare_rir_noise
from lhotse.recipes.rir_noise import PARTS

from streamnest.data.recipes.files import need, reading, walk
from streamnest.data.recipes.options import Recipe, RecipeOptions
from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.errors import UserError

LIBRISPEECH = """  SOURCE/train-clean-100/19/198/19-198-0000.flac
  SOURCE/train-clean-100/19/198/19-198.trans.txt
  (any of train-*, dev-*, test-*)"""
AISHELL = """  SOURCE/data_aishell/transcript/aishell_transcript_v0.8.txt
  SOURCE/data_aishell/wav/{train,dev,test}/S0002/BAC009S0002W0122.wav   (with its archives unpacked)"""
MUSAN = """  SOURCE/music/*/*.wav with ANNOTATIONS
  SOURCE/noise/*/*.wav
  SOURCE/speech/*/*.wav"""
RIRS = """  SOURCE/pointsource_noises/*.wav
  SOURCE/real_rirs_isotropic_noises/*.wav
  SOURCE/simulated_rirs/{small,medium,large}room/Room001/*.wav"""


@contextmanager
def lists_only() -> Iterator[None]:
    """Lets Lhotse's recipes run without opening audio: recordings have a dummy length until they are measured."""

    def from_file(path: Any, recording_id: Any = None, **ignored: Any) -> Recording:
        path = Path(path)
        name = recording_id(path) if callable(recording_id) else recording_id or path.stem
        return Recording(name, [AudioSource("file", [0], str(path))], 16000, 16000, 1.0)

    with patch.object(Recording, "from_file", staticmethod(from_file)):
        yield


def read_librispeech(options: RecipeOptions) -> Iterator[Piece | Dropped]:
    """Reads LibriSpeech and mini LibriSpeech; both dev sets become `dev`, the test sets stay separate."""
    source = options.source
    if not [path for kind in ("train", "dev", "test") for path in source.glob(f"{kind}-*/")]:
        raise UserError(f"{source} contains no train-*, dev-* or test-*: LibriSpeech is expected as\n{LIBRISPEECH}")
    if missing := [name for name in options.parts if not (source / name).is_dir()]:
        raise UserError(f"{source} contains no {missing[0]}: download it, or leave it out of --parts")
    chosen = {"dataset_parts": list(options.parts)} if options.parts else {}
    for name, sets in sorted(_run(prepare_librispeech, source, **chosen).items()):
        part = name.replace("-", "_") if name.startswith("test") else name.split("-")[0]
        yield from _utterances(sets, part, source / name, {".flac"})
        yield from _missing(source / name, {each.id for each in sets["supervisions"]})


def _missing(folder: Path, known: set[str]) -> Iterator[Dropped]:
    """Yields the files that the lists of a part name and that Lhotse skipped because they do not exist."""
    for path in walk(folder, {".txt"}):
        if path.name.endswith(".trans.txt"):
            with reading(path) as lines:
                names = [line.split()[0] for line in lines if line.strip()]
            yield from (Dropped(str(path.parent / f"{name}.flac"), "missing") for name in names if name not in known)


def read_aishell(options: RecipeOptions) -> Iterator[Piece | Dropped]:
    """Reads AISHELL-1."""
    for name in ("transcript/aishell_transcript_v0.8.txt", "wav"):
        need(options.source / "data_aishell" / name, "AISHELL-1", AISHELL)
    for name, sets in _run(prepare_aishell, options.source).items():
        yield from _utterances(sets, name, options.source / "data_aishell/wav" / name, {".wav"})


def read_musan(options: RecipeOptions) -> Iterator[Piece]:
    """Reads the parts `music`, `noise` and `speech` of MUSAN."""
    parts = [name for name in ("music", "noise", "speech") if (options.source / name).is_dir()]
    if not parts:
        raise UserError(f"{options.source} contains no music, noise or speech: MUSAN is expected as\n{MUSAN}")
    yield from _recordings(_run(prepare_musan, options.source, parts=parts))


def read_rirs(options: RecipeOptions) -> Iterator[Piece]:
    """Reads the parts `point_noise`, `iso_noise`, `real_rir` and `sim_rir` of RIRS_NOISES (SLR28)."""
    parts = [name for name, folder in PARTS.items() if (options.source / folder).is_dir()]
    if not parts:
        raise UserError(f"{options.source} contains none of its folders: RIRS_NOISES is expected as\n{RIRS}")
    yield from _recordings(_run(prepare_rir_noise, options.source, parts=parts))


def _run(recipe: Callable[..., Any], source: Path, **choices: Any) -> dict[str, Any]:
    try:
        with lists_only():
            return recipe(source, **choices)
    # Recipes raise many exceptions for damaged lists and missing files.
    except Exception as error:
        raise UserError(
            f"{source}: Lhotse's {recipe.__name__} cannot read the lists ({type(error).__name__}: {error}); "
            "unpack the whole corpus"
        ) from error


def _utterances(sets: dict[str, Any], part: str, folder: Path, suffixes: set[str]) -> Iterator[Piece | Dropped]:
    """Yields one piece per supervision, then the files of the folder that no list names."""
    paths = {recording.id: Path(recording.sources[0].source) for recording in sets["recordings"]}
    for each in sets["supervisions"]:
        yield Piece(each.id, paths[each.recording_id], part, 0.0, None, each.speaker, each.text, each.language)
    listed = set(paths.values())
    yield from (Dropped(str(path), "not listed in the corpus") for path in walk(folder, suffixes) if path not in listed)


def _recordings(manifests: dict[str, Any]) -> Iterator[Piece]:
    for part, sets in manifests.items():
        yield from (Piece(each.id, Path(each.sources[0].source), part) for each in sets["recordings"])


RECIPES = {
    "librispeech": Recipe(read_librispeech, LIBRISPEECH, ("parts",)),
    "mini_librispeech": Recipe(read_librispeech, LIBRISPEECH.replace("train-clean-100", "train-clean-5"), ("parts",)),
    "aishell": Recipe(read_aishell, AISHELL),
    "musan": Recipe(read_musan, MUSAN),
    "rirs": Recipe(read_rirs, RIRS),
}
