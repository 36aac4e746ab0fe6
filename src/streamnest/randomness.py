"""Randomness as a pure function of (seed, step, cut id).

Masks, dither, noise and speaker mixing must not depend on the device, the number of processes, the other rows of the
batch, or on whether the run was interrupted. A stateful generator cannot guarantee that, so every random number is a
hash of a key (counter-based, as in Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; the mixer is
splitmix64). The same vectorized code runs on CPU and GPU and gives the same integers on both.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

_INT64_SPAN = 1 << 64


def _signed(value: int) -> int:
    """Wraps a Python integer into the int64 range, as tensor arithmetic does."""
    value %= _INT64_SPAN
    return value - _INT64_SPAN if value >= _INT64_SPAN >> 1 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    # int64 ">>" copies the sign bit; splitmix64 is defined on unsigned integers.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _logical_shift(x, 30)) * _MULTIPLIERS[0]
    x = (x ^ _logical_shift(x, 27)) * _MULTIPLIERS[1]
    return x ^ _logical_shift(x, 31)


def hash_id(cut_id: str) -> int:
    """Returns a 64-bit signed hash of a cut id, the same in every process (unlike Python's salted `hash`)."""
    return int.from_bytes(hashlib.blake2b(cut_id.encode(), digest_size=8).digest(), "little", signed=True)


def fold_keys(keys: Tensor, *values: int) -> Tensor:
    """Mixes integers (seed, step, a stream number) into keys `(B,)` int64; returns new keys `(B,)`."""
    for value in values:
        keys = _mix(keys ^ _mix(torch.full_like(keys, _signed(value)) + _GOLDEN))
    return keys


def random_keys(batch: int, device: torch.device | str = "cpu") -> Tensor:
    """Samples keys `(batch,)` from torch's global generator, for callers without cut ids."""
    return torch.randint(-(1 << 63), (1 << 63) - 1, (batch,)).to(device)


def random_bits(keys: Tensor, count: int) -> Tensor:
    """Returns `count` pseudo-random non-negative int64 below 2^63 per key: `(B,)` -> `(B, count)`."""
    counters = torch.arange(1, count + 1, device=keys.device)
    return _logical_shift(_mix(keys[:, None] + counters * _GOLDEN), 1)


def uniform(keys: Tensor, count: int) -> Tensor:
    """Returns `count` uniform float32 in [0, 1) per key: `(B,)` -> `(B, count)`, exact with 24 bits each."""
    return (random_bits(keys, count) >> 39).float() * 2.0**-24


def normal(keys: Tensor, count: int) -> Tensor:
    """Returns `count` standard normal float32 per key (Box-Muller): `(B,)` -> `(B, count)`."""
    bits = random_bits(keys, count)
    # The upper and the lower 24 bits of one hash are the two uniform numbers.
    radius, angle = (bits >> 39).float() * 2.0**-24, (bits & 0xFFFFFF).float() * 2.0**-24
    return torch.sqrt(-2.0 * torch.log1p(-radius)) * torch.cos(2.0 * math.pi * angle)


def numpy_generator(seed: int, step: int, cut_id: str, stream: int = 0) -> np.random.Generator:
    """Returns a NumPy generator for one cut at one step; `stream` separates uses (noise, reverberation, ...)."""
    text = f"{seed}/{step}/{cut_id}/{stream}".encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))
