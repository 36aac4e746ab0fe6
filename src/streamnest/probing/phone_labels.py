"""Utterances for probes, with aligned phones, texts and speakers."""

from __future__ import annotations

import json
import math
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

# Required fields of the lines of each file, as examples.
_UTTERANCE = {"id": "a", "path": "a.wav"}
_PHONES = {"id": "a", "phones": [[0.0, 0.08, "ah"]]}


@dataclass
class ProbeUtterance:
    """One utterance of a probe.

    Attributes:
        id: id in the manifest.
        path: audio file.
        speaker: speaker, or None if unknown.
        split: "train", or the name of a test set; if the manifest has none, one utterance in five is "test".
        phones: start and end in seconds, and the phone label.
        text: normalized transcript; empty if unknown.
    """

    id: str
    path: Path
    speaker: str | None = None
    split: str = "train"
    phones: list[Phone] = field(default_factory=list)
    text: str = ""


def read_utterances(manifest: str | Path, phones: str | Path | None = None) -> list[ProbeUtterance]:
    """Reads a manifest of JSON lines with `id`, `path`, and optionally `speaker`, `split` and `text`.

    Args:
        manifest: file with paths relative to its folder.
        phones: file of JSON lines with `id` and `phones: [[start, end, label], ...]` in seconds, for some utterances.

    Raises:
        UserError: for a missing file, an invalid line, or phone labels that belong to no utterance of the manifest.
    """
    aligned = _aligned(phones) if phones else {}
    folder, utterances = Path(manifest).parent, []
    for _, entry in _lines(manifest, _UTTERANCE):
        split = entry.get("split") or ("train" if hash_id(entry["id"]) % 5 else "test")
        aligned_phones, text = aligned.get(entry["id"], []), normalize_text(str(entry.get("text") or ""))
        utterances.append(
            ProbeUtterance(entry["id"], folder / entry["path"], entry.get("speaker"), split, aligned_phones, text)
        )
    if not utterances:
        raise UserError(f"{manifest} has no utterances")
    if phones and not any(u.phones for u in utterances):
        raise UserError(f"{phones} has no phones for any utterance of {manifest}: the ids in the two files must match")
    return utterances


def _aligned(path: str | Path) -> dict[str, list[Phone]]:
    """Returns the phones of each utterance by its id."""
    phones = {}
    for number, entry in _lines(path, _PHONES):
        try:
            phones[entry["id"]] = [_phone(*one) for one in entry["phones"]]
        except (TypeError, ValueError):
            raise UserError(
                f"{path}, line {number} has invalid phones: expected {_written(_PHONES)}, with start and end in seconds"
            ) from None
    return phones


def _phone(start: Any, end: Any, label: Any) -> Phone:
    if not 0 <= float(start) <= float(end) < math.inf:
        raise ValueError
    return float(start), float(end), str(label)


def _lines(path: str | Path, example: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the lines of a file with their numbers; each has at least the fields of the example."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: if it is compressed, unpack it first (gunzip)") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _entry(f"{path}, line {number}", line, example)


def _entry(location: str, line: str, example: dict[str, Any]) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{location} is not valid JSON ({error}): expected {_written(example)}") from error
    for name, value in example.items():
        if not isinstance(entry, dict) or name not in entry:
            raise UserError(
                f"{location} has no field {name}: expected {_written(example)}; Lhotse manifests are not supported here"
            )
        if not isinstance(entry[name], type(value)):
            raise UserError(f"{location}: the field {name} has another type: expected {_written(example)}")
    return dict(entry)


def _written(example: dict[str, Any]) -> str:
    return f"lines such as {json.dumps(example)}"


def frame_phones(utterance: ProbeUtterance, frames: int, frame_ms: float, classes: dict[str, int]) -> Tensor:
    """Returns the phone class at the center of each frame: `(frames,)` int64, -1 for no phone or an unknown one."""
    labels = torch.full((frames,), -1)
    center = (torch.arange(frames) + 0.5) * frame_ms / 1000
    times = torch.tensor([(start, end) for start, end, _ in utterance.phones]).view(-1, 2)
    spans = torch.searchsorted(center, times).tolist()
    for (first, end), (_, _, label) in zip(spans, utterance.phones, strict=True):
        labels[first:end] = classes.get(label, -1)
    return labels


def phone_classes(utterances: list[ProbeUtterance], silence: frozenset[str]) -> dict[str, int]:
    """Numbers the phones of the training set, without silence, which is easy to detect and frequent."""
    counts = Counter(label for u in utterances if u.split == "train" for _, _, label in u.phones)
    return {label: number for number, label in enumerate(sorted(set(counts) - silence))}
