"""Suggests a command if a path that was given as data is neither a cut manifest nor a folder of shards."""

from __future__ import annotations

import json
import shlex
from itertools import islice
from pathlib import Path

from streamnest.data.lines import numbered_lines
from streamnest.errors import UserError

# Maximum number of files of a folder, and of lines of a file, that are inspected.
_LOOK, _LINES = 2000, 3


def remedy(path: Path) -> str:
    """Returns the remedy for a path without cuts as the end of a sentence; empty if none is known."""
    # Imports every recipe, which takes time that a valid path should not cost.
    from streamnest.data.recipes.files import NOT_READ, READ

    if not path.exists():
        return _not_prepared(path)
    if path.is_dir():
        return _folder_remedy(path)
    if path.name == "wav.scp":
        return _prepare("kaldi", path.parent)
    if path.suffix.lower() in READ | NOT_READ:
        return "; it is an audio file: " + _prepare("folder", path.parent).removeprefix("; ")
    return _list_remedy(path)


def _prepare(corpus: str, source: Path | str, out: Path | str = "data/NAME") -> str:
    command = ["streamnest", "prepare", corpus, "--source", str(source), "--out", str(out)]
    return f"; make a manifest with `{shlex.join(command)}`"


def _not_prepared(path: Path) -> str:
    from streamnest.data.recipes.registry import RECIPES

    if path.parent.name in RECIPES:
        return _prepare(path.parent.name, "FOLDER", path.parent)
    others = sorted(file.name for file in path.parent.glob("*.jsonl*"))[:5] if path.parent.is_dir() else []
    return f"; {path.parent} has {', '.join(others)}" if others else ""


def _folder_remedy(path: Path) -> str:
    from streamnest.data.recipes.files import READ

    if (path / "recording.000000.tar").is_file():
        return f"; index its shards with `streamnest shard --index {shlex.quote(str(path))}`"
    if (path / "wav.scp").is_file():
        return _prepare("kaldi", path)
    manifests = sorted(path.glob("*.jsonl*"))
    if manifests:
        return f"; name a manifest in it, such as {manifests[0]}"
    if any(file.suffix.lower() in READ for file in islice(path.rglob("*"), _LOOK)):
        return "; it is a folder of audio: " + _prepare("folder", path).removeprefix("; ")
    return ""


def _list_remedy(path: Path) -> str:
    try:
        rows = [json.loads(line) for _, line in islice(numbered_lines(path), _LINES)]
    except (OSError, ValueError, RecursionError, UserError):
        return ""
    keys = {key for row in rows if isinstance(row, dict) for key in row}
    if "audio_filepath" in keys:
        return "; it is a list of audio files: " + _prepare("manifest", path).removeprefix("; ")
    if "sources" in keys:
        return "; it is a list of recordings: " + _prepare("lhotse", path).removeprefix("; ")
    return ""
