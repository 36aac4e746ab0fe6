"""Labels of frames and utterances for probes: phones with times, and speakers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamnest.errors import UserError
from streamnest.randomness import hash_id

Phone = tuple[float, float, str]


@dataclass
class Utterance:
    """One utterance of a probe.

    Attributes:
        id: of the manifest.
        path: of the audio.
        speaker: if known.
        split: "train" or what it is tested on; where a manifest has none, one utterance in five is tested on.
        phones: beginning and end in seconds, and the label.
    """

    id: str
    path: Path
    speaker: str | None = None
    split: str = "train"
    phones: list[Phone] = field(default_factory=list)


def read_utterances(manifest: str | Path, phones: str | Path | None = None) -> list[Utterance]:
    """Reads a manifest of JSON lines with `id`, `path`, and maybe `speaker` and `split`.

    Args:
        manifest: paths in it are relative to its folder.
        phones: JSON lines with `id` and `phones: [[begin, end, label], ...]` in seconds, for some of the utterances.

    Raises:
        UserError: for a missing file, a bad line, or phones of no utterance of the manifest.
    """
    aligned = {entry["id"]: entry["phones"] for entry in _lines(phones)} if phones else {}
    folder, found = Path(manifest).parent, []
    for entry in _lines(manifest):
        split = entry.get("split") or ("train" if hash_id(entry["id"]) % 5 else "test")
        times = [(float(b), float(e), str(label)) for b, e, label in aligned.get(entry["id"], [])]
        found.append(Utterance(entry["id"], folder / entry["path"], entry.get("speaker"), split, times))
    if not found or (aligned and not any(u.phones for u in found)):
        raise UserError(f"{manifest} has no utterance" + (f" that {phones} has phones for" if phones else ""))
    return found


def _lines(path: str | Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no file of JSON lines: {error}") from error


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
