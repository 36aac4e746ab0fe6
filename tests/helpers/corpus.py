"""Small corpora on disk, and objects that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import Recording, SupervisionSegment
from lhotse.cut import Cut

from streamnest.data.augment.augmentation import Augmentation
from streamnest.data.augment.noise import NoiseBank
from streamnest.data.augment.noise_and_speakers import NoiseAndSpeakerMixing
from streamnest.data.config import AugmentConfig, DataConfig
from streamnest.data.datamodule import SpeechDataModule


def tone(seconds: float, seed: int = 0, rate: int = 16000, channels: int = 1) -> np.ndarray:
    """Returns `(N,)` or `(N, channels)` of float32 noise at -20 dB."""
    shape = (round(seconds * rate), channels) if channels > 1 else round(seconds * rate)
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def make_cut(folder: Path, name: str, audio: np.ndarray, rate: int = 16000, speaker: str | None = None) -> Cut:
    """Writes a float WAV file and returns a cut of the whole file."""
    path = folder / f"{name}.wav"
    soundfile.write(path, audio, rate, subtype="FLOAT")
    cut = Recording.from_file(path, recording_id=name).to_cut()
    cut.id = name
    if speaker:
        cut.supervisions = [SupervisionSegment(name, name, 0.0, cut.duration, speaker=speaker)]
    return cut


def write_manifest(path: Path, cuts: list[Cut], extra: tuple[str, ...] = ()) -> Path:
    """Writes a cut manifest with paths relative to its folder; `extra` lines come first."""
    lines = list(extra)
    for cut in cuts:
        data = cut.to_dict()
        for source in data["recording"]["sources"]:
            source["source"] = Path(source["source"]).name
        lines.append(json.dumps(data))
    path.write_text("".join(line + "\n" for line in lines))
    return path


def data_module(train_manifest: Any, augment: Augmentation | None = None, **settings: Any) -> SpeechDataModule:
    """Builds a data module from fields of `DataConfig`."""
    if isinstance(train_manifest, Path):
        train_manifest = str(train_manifest)
    return SpeechDataModule(DataConfig(train_manifest=train_manifest, **settings), augment)


def noise_mixing(
    prob: float = 0.5, noise_ratio: float = 0.5, noise: NoiseBank | None = None, **settings: Any
) -> NoiseAndSpeakerMixing:
    """Builds the mixing of noise and speakers from fields of `AugmentConfig`."""
    return NoiseAndSpeakerMixing(AugmentConfig(prob=prob, noise_ratio=noise_ratio, **settings), noise)
