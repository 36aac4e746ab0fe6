"""A corpus of distinguishable speakers, each with a different pitch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from corpus import make_cut, write_manifest

NAMES = ["ann", "bob", "cleo", "dan", "eve"]


def voice(speaker: int, seconds: float, seed: int) -> np.ndarray:
    """Returns harmonics of the pitch of a speaker, which varies slightly with the seed; never silent."""
    rng = np.random.default_rng(100 * speaker + seed)
    time = np.arange(round(seconds * 16000)) / 16000
    pitch = 100 * 1.5**speaker * (1 + 0.02 * rng.standard_normal())
    waves = [np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in (1, 2, 3)]
    return (0.1 * sum(waves) + 0.005 * rng.standard_normal(len(time)) + 0.002).astype(np.float32)


def speaker_corpus(folder: Path, names: list[str], each: int = 3, seconds: float = 1.2) -> Path:
    """Writes a manifest with `each` utterances of some of the speakers."""
    folder.mkdir(parents=True, exist_ok=True)
    cuts = [
        make_cut(folder, f"{name}-{number}", voice(NAMES.index(name), seconds + 0.3 * number, number), speaker=name)
        for name in names
        for number in range(each)
    ]
    return write_manifest(folder / "cuts.jsonl", cuts)
