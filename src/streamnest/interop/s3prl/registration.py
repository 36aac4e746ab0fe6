"""Registers the upstream in S3PRL and restores the functions of torchaudio that S3PRL 0.4.18 calls."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import soundfile
import torch
import torchaudio
from torch import Tensor

from streamnest.errors import UserError
from streamnest.interop.s3prl.upstream import streamnest, streamnest_20ms

UPSTREAMS = (streamnest, streamnest_20ms)


def register() -> None:
    """Adds the upstreams to `s3prl.hub`, where S3PRL finds them by name.

    Raises:
        UserError: if S3PRL is not installed.
    """
    restore_torchaudio()
    try:
        from s3prl import hub
    except ImportError as error:
        raise UserError(f"S3PRL cannot be imported ({error}): run pip install 'streamnest[s3prl]'") from None
    for upstream in UPSTREAMS:
        setattr(hub, upstream.__name__, upstream)


def restore_torchaudio() -> None:
    """Adds the functions that torchaudio 2.9 removed and S3PRL calls, in this process; existing ones are kept.

    Without torchcodec, `torchaudio.load` and `torchaudio.info` read files with soundfile.
    """
    if not hasattr(torchaudio, "set_audio_backend"):
        torchaudio.set_audio_backend = lambda _backend: None
    if importlib.util.find_spec("torchcodec") is None:
        torchaudio.load = load
    if not hasattr(torchaudio, "info"):
        torchaudio.info = info
    if not hasattr(torchaudio, "sox_effects"):
        effects = ModuleType("torchaudio.sox_effects")
        effects.apply_effects_file = apply_effects_file  # type: ignore[attr-defined]
        effects.apply_effects_tensor = apply_effects  # type: ignore[attr-defined]
        torchaudio.sox_effects = sys.modules[effects.__name__] = effects


def load(path: str, frame_offset: int = 0, num_frames: int = -1, **_options: Any) -> tuple[Tensor, int]:
    """Reads `(channels, N)` float32 samples and their rate."""
    samples, rate = soundfile.read(path, num_frames, frame_offset, dtype="float32", always_2d=True)
    return torch.from_numpy(samples).t().contiguous(), rate


def info(path: str, **_options: Any) -> SimpleNamespace:
    """Reads rate, length, channels and encoding of a file."""
    head = soundfile.info(path)
    return SimpleNamespace(
        sample_rate=head.samplerate,
        num_frames=head.frames,
        num_channels=head.channels,
        bits_per_sample=0,
        encoding=head.subtype,
    )


def apply_effects_file(path: str, effects: Sequence[Sequence[str]], **_options: Any) -> tuple[Tensor, int]:
    """Reads a file and applies effects; see `apply_effects`."""
    return apply_effects(*load(path), effects)


def apply_effects(samples: Tensor, rate: int, effects: Sequence[Sequence[str]], **_options: Any) -> tuple[Tensor, int]:
    """Applies the SoX effects `channels 1`, `rate`, `gain` and `norm`, all that keyword spotting and QbE use.

    Args:
        samples: `(channels, N)`.
        rate: samples per second.
        effects: names and arguments.

    Returns:
        The samples and their new rate. Resampling is that of torchaudio, not of SoX.

    Raises:
        UserError: for another effect.
    """
    for name, *arguments in effects:
        if name == "channels" and arguments == ["1"]:
            samples = samples.mean(0, keepdim=True)
        elif name == "rate":
            samples = torchaudio.functional.resample(samples, rate, int(arguments[0]))
            rate = int(arguments[0])
        elif name == "gain" and len(arguments) == 1:
            samples = samples * 10 ** (float(arguments[0]) / 20)
        elif name == "norm" and not arguments:
            samples = samples / samples.abs().max().clamp(min=1e-9)
        else:
            raise UserError(
                f"the SoX effect {' '.join([name, *arguments])} is not supported, because torchaudio has no SoX "
                "since version 2.9: apply it to the files beforehand, or choose another task"
            )
    return samples, rate
