"""Writes the Lhotse cut manifests of the built-in corpus: `python tools/make_sample_manifests.py`.

They are made from manifest.jsonl and noise.jsonl of its folder; run it again after changing those.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python tools/make_sample_manifests.py", __doc__)
    default = Path(__file__).resolve().parents[1] / "data" / "sample16k"
    parser.add_argument("folder", nargs="?", type=Path, default=default, help="folder of the corpus")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import json
from typing import Any

import soundfile
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment


def make_cut(folder: Path, row: dict[str, Any]) -> MonoCut:
    """Converts a row of `manifest.jsonl` or `noise.jsonl` to a cut of the whole file, its path relative to `folder`."""
    # The header gives the exact duration: those of the rows are rounded.
    info = soundfile.info(folder / row["path"])
    duration = info.frames / info.samplerate
    recording = Recording(
        id=row["id"],
        sources=[AudioSource("file", [0], row["path"])],
        sampling_rate=info.samplerate,
        num_samples=info.frames,
        duration=duration,
    )
    speech = SupervisionSegment(
        id=row["id"],
        recording_id=row["id"],
        start=0.0,
        duration=duration,
        text=row.get("text") or None,
        language=row.get("language"),
        speaker=row.get("speaker"),
    )
    custom = {key: row[key] for key in ("source", "licence", "category") if key in row}
    supervisions = [speech] if "speaker" in row else []
    return MonoCut(row["id"], 0.0, duration, 0, supervisions=supervisions, recording=recording, custom=custom)


def write_manifests(folder: Path) -> dict[str, int]:
    """Writes `cuts_train.jsonl`, `cuts_dev.jsonl` and `cuts_noise.jsonl`; returns the number of cuts of each."""
    speech, noise = _read(folder / "manifest.jsonl"), _read(folder / "noise.jsonl")
    parts = {
        "cuts_train.jsonl": [row for row in speech if row["split"] == "train"],
        "cuts_dev.jsonl": [row for row in speech if row["split"] == "dev"],
        "cuts_noise.jsonl": noise,
    }
    for name, rows in parts.items():
        _write(folder / name, (make_cut(folder, row) for row in rows))
    return {name: len(rows) for name, rows in parts.items()}


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, cuts: Iterable[MonoCut]) -> None:
    lines = (json.dumps(cut.to_dict(), ensure_ascii=False) + "\n" for cut in cuts)
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Writes the manifests and prints their sizes."""
    for name, count in write_manifests(parse().folder).items():
        print(f"{name}: {count} cuts")


if __name__ == "__main__":
    main()
