"""Test signals of every loudness, and replacements for the rest of an utterance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def noise(samples: int, rows: int = 1, seed: int = 7) -> Tensor:
    """Returns noise `(rows, samples)` that rises and falls in loudness, about as loud as speech, in float64."""
    generator = torch.Generator().manual_seed(seed)
    plain = torch.randn(rows, samples, generator=generator, dtype=torch.float64)
    return 0.1 * plain * (torch.sin(torch.arange(samples) * 2e-3).abs() + 0.1)


def _gaps(x: Tensor) -> Tensor:
    return x * (torch.arange(x.shape[-1]) // 800 % 3 > 0)


def _click(x: Tensor) -> Tensor:
    x = 0.3 * x
    for place in (x.shape[-1] // 4, x.shape[-1] * 9 // 10):  # before and after the boundary in the middle
        x[..., place] = 100.0
    return x


# Sounds by name, each computed from noise. Levels are close together, so that leaks within a range are found.
SOUNDS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda x: x,
    "loud": lambda x: 40 * x,
    "silent": torch.zeros_like,
    "clipped": lambda x: (40 * x).clamp(-1, 1),
    "click": _click,
    "gaps": _gaps,
    "offset": lambda x: x + 0.37,
    "faint": lambda x: 1e-4 * x,
    "quiet": lambda x: 0.01 * x,
    "soft": lambda x: 0.1 * x,
    "lower": lambda x: 0.4 * x,
    "higher": lambda x: 3 * x,
}


def sound(name: str, samples: int, rows: int = 1, seed: int = 7) -> Tensor:
    """Returns audio `(rows, samples)` of one of `SOUNDS`."""
    return SOUNDS[name](noise(samples, rows, seed))


def with_future(audio: Tensor, boundary: Tensor, name: str) -> Tensor:
    """Replaces the samples of audio `(B, N)` from `boundary` `(B,)` on by a sound, or by an offset ("shifted")."""
    time = torch.arange(audio.shape[1], device=audio.device)
    future = audio + 0.37 if name == "shifted" else sound(name, audio.shape[1], len(audio), seed=11).to(audio)
    return torch.where(time < boundary[:, None], audio, future)


def random_like(x: Tensor, seed: int) -> Tensor:
    """Returns standard normal values with the shape, type and device of `x`, reproducible by seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
