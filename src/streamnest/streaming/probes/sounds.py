"""Audio of every loudness, and futures to put in place of the rest of an utterance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def noise(samples: int, rows: int = 1, seed: int = 7) -> Tensor:
    """Noise `(rows, samples)` of a fixed seed that rises and falls in loudness, about as loud as speech, float64."""
    generator = torch.Generator().manual_seed(seed)
    plain = torch.randn(rows, samples, generator=generator, dtype=torch.float64)
    return 0.1 * plain * (torch.sin(torch.arange(samples) * 2e-3).abs() + 0.1)


def _gaps(x: Tensor) -> Tensor:
    return x * (torch.arange(x.shape[-1]) // 800 % 3 > 0)


def _click(x: Tensor) -> Tensor:
    x = 0.3 * x
    for place in (x.shape[-1] // 4, x.shape[-1] * 9 // 10):  # before and after the middle, where audio is exchanged
        x[..., place] = 100.0
    return x


# Sounds by name, each made from noise. Levels lie close together, for thresholds that have two ends.
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
    """Audio `(rows, samples)` of one kind of `SOUNDS`."""
    return SOUNDS[name](noise(samples, rows, seed))


def with_future(audio: Tensor, boundary: Tensor, name: str) -> Tensor:
    """Audio `(B, N)` whose samples from `boundary` `(B,)` on are another sound, or "shifted" by an offset."""
    time = torch.arange(audio.shape[1], device=audio.device)
    future = audio + 0.37 if name == "shifted" else sound(name, audio.shape[1], len(audio), seed=11).to(audio)
    return torch.where(time < boundary[:, None], audio, future)


def random_like(x: Tensor, seed: int) -> Tensor:
    """Standard normal values of the shape, type and device of x, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
