"""Labels of frames and utterances for probes: phones with times, texts, and speakers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamnest.downstream.asr.vocabulary import normalize_text
from streamnest.errors import UserError
from streamnest.randomness import hash_id

Phone = tuple[float, float, str]

# What the lines of files need at least.
_UTTERANCE = {"id": "a", "path": "a.wav"}
_PHONES = {"id": "a", "phones": [[0.0, 0.08, "ah"]]}


@dataclass
class Utterance:
    """One utterance of a probe.

    Attributes:
        id: of the manifest.
        path: of the audio.
        speaker: if known.
        split: "train" or what it is tested on; where a manifest has none, one utterance in five is tested on.
        phones: beginning and end in seconds, and the label.
        text: what is said, normalised; empty if unknown.
    """

    id: str
    path: Path
    speaker: str | None = None
    split: str = "train"
    phones: list[Phone] = field(default_factory=list)
    text: str = ""


def read_utterances(manifest: str | Path, phones: str | Path | None = None) -> list[Utterance]:
    """Reads a manifest of JSON lines with `id`, `path`, and maybe `speaker`, `split` and `text`.

    Args:
        manifest: paths in it are relative to its folder.
        phones: JSON lines with `id` and `phones: [[begin, end, label], ...]` in seconds, for some of the utterances.

    Raises:
        UserError: for a missing file, a bad line, or phones of no utterance of the manifest.
    """
    aligned = _aligned(phones) if phones else {}
    folder, found = Path(manifest).parent, []
    for _, entry in _lines(manifest, _UTTERANCE):
        split = entry.get("split") or ("train" if hash_id(entry["id"]) % 5 else "test")
        times, text = aligned.get(entry["id"], []), normalize_text(str(entry.get("text") or ""))
        found.append(Utterance(entry["id"], folder / entry["path"], entry.get("speaker"), split, times, text))
    if not found or (aligned and not any(u.phones for u in found)):
        raise UserError(f"{manifest} has no utterance" + (f" that {phones} has phones for" if phones else ""))
    return found


def _aligned(path: str | Path) -> dict[str, list[Phone]]:
    """Phones by the id of their utterance."""
    found = {}
    for number, entry in _lines(path, _PHONES):
        try:
            found[entry["id"]] = [(float(begin), float(end), str(label)) for begin, end, label in entry["phones"]]
        except (TypeError, ValueError):
            raise UserError(
                f"{path}, line {number} has phones of another form: write {_written(_PHONES)}, in seconds"
            ) from None
    return found


def _lines(path: str | Path, example: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of a file with their numbers; each has what the example has."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8; if it is compressed, unpack it (gunzip)") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _entry(f"{path}, line {number}", line, example)


def _entry(place: str, line: str, example: dict[str, Any]) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{place} is no JSON ({error}): write {_written(example)}") from error
    for name in example:
        if not isinstance(entry, dict) or name not in entry:
            raise UserError(f"{place} has no {name}: write {_written(example)}; cuts of Lhotse are not read here")
    return dict(entry)


def _written(example: dict[str, Any]) -> str:
    return f"lines such as {json.dumps(example)}"


def frame_phones(utterance: Utterance, frames: int, frame_ms: float, classes: dict[str, int]) -> Tensor:
    """The phone at the middle of each block: `(frames,)` int64, -1 where there is none or it is no class."""
    labels = torch.full((frames,), -1)
    middle = (torch.arange(frames) + 0.5) * frame_ms / 1000
    for begin, end, label in utterance.phones:
        labels[(middle >= begin) & (middle < end)] = classes.get(label, -1)
    return labels


def phone_classes(utterances: list[Utterance], silence: frozenset[str]) -> dict[str, int]:
    """A number for each phone of the training set, silence left out: it is easy and makes up much of the time."""
    heard = Counter(label for u in utterances if u.split == "train" for _, _, label in u.phones)
    return {label: number for number, label in enumerate(sorted(set(heard) - silence))}
