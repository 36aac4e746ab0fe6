"""Resampling in bounded memory for any pair of sampling rates.

torchaudio and Lhotse tabulate the filter for every phase: `orig/gcd x new/gcd` taps, which take 13 GB from 44,099 Hz to
16 kHz. Above a limit, the same filter is computed for each output sample instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial

import lhotse.augmentation.torchaudio
import torch
from torch import Tensor
from torchaudio.functional import resample as tabulated

# Maximum taps of a table (8 MB). The usual sampling rates and speed factors of two digits need less.
_LARGEST_TABLE = 2**21
# Taps that are computed at once: a few temporary arrays of 8 MB.
_CHUNK = 2**20
# Filter parameters of torchaudio and Lhotse.
_ZERO_CROSSINGS, _ROLLOFF = 6, 0.99


def resample(audio: Tensor, orig: int, new: int) -> Tensor:
    """Resamples `(..., N)` to `(..., ceil(N * new / orig))`, in memory that depends only on the audio.

    Args:
        audio: float32 samples.
        orig: sampling rate of the audio in Hz.
        new: sampling rate of the result in Hz.
    """
    return tabulated(audio, orig, new) if _table(orig, new) <= _LARGEST_TABLE else _evaluated(audio, orig, new)


class BlockResampler:
    """Resamples a signal that arrives in blocks, in memory that does not depend on its length.

    The concatenated results are those of `resample` on the whole signal.

    Args:
        orig: sampling rate of the blocks in Hz.
        new: sampling rate of the results in Hz.

    Attributes:
        delay: largest number of input samples that have no result yet.
    """

    def __init__(self, orig: int, new: int) -> None:
        self._orig, self._new, divisor = orig, new, math.gcd(orig, new)
        self._unit, self._unit_outputs = orig // divisor, new // divisor
        scale = min(orig, new) * _ROLLOFF / orig
        # Samples around an output that it depends on, in whole units, which have whole numbers of outputs.
        units = math.ceil(_ZERO_CROSSINGS / scale) // self._unit + 1
        self._margin, self._outputs = units * self._unit, units * self._unit_outputs
        self._held = torch.zeros(self._margin)
        self.delay = self._margin + self._unit - 1

    def push(self, block: Tensor) -> Tensor:
        """Returns the results `(m,)` that float32 samples `(n,)` complete."""
        self._held = torch.cat([self._held, block])
        units = (len(self._held) - 2 * self._margin) // self._unit
        if units < 1:
            return block.new_zeros(0)
        inner = units * self._unit
        out = resample(self._held[: inner + 2 * self._margin], self._orig, self._new)
        self._held = self._held[inner:].clone()
        return out[self._outputs : self._outputs + units * self._unit_outputs]

    def end(self) -> Tensor:
        """Returns the rest of the results after the last block."""
        rest = math.ceil((len(self._held) - self._margin) * self._new / self._orig)
        padded = torch.cat([self._held, self._held.new_zeros(self._margin)])
        return resample(padded, self._orig, self._new)[self._outputs : self._outputs + rest]


def resample_blocks(blocks: Iterable[Tensor], orig: int, new: int) -> Iterator[Tensor]:
    """Resamples consecutive blocks `(n,)` of a signal with a `BlockResampler`.

    Args:
        blocks: float32 samples.
        orig: sampling rate of the blocks in Hz.
        new: sampling rate of the results in Hz.
    """
    if orig == new:
        yield from blocks
        return
    resampler = BlockResampler(orig, new)
    for block in blocks:
        yield resampler.push(block)
    yield resampler.end()


def _table(orig: int, new: int) -> int:
    """Returns the number of taps of a tabulated filter."""
    divisor = math.gcd(orig, new)
    return (orig // divisor) * (new // divisor)


def _evaluated(audio: Tensor, orig: int, new: int) -> Tensor:
    """Resamples with the filter of torchaudio (a Hann-windowed sinc), computed for each output sample."""
    divisor = math.gcd(orig, new)
    orig, new = orig // divisor, new // divisor
    scale = min(orig, new) * _ROLLOFF / orig
    width = math.ceil(_ZERO_CROSSINGS / scale)
    taps = torch.arange(-width, width + 1)
    rows = audio.reshape(-1, audio.shape[-1])
    padded = torch.nn.functional.pad(rows, (width, width + 1))
    outputs = torch.arange(math.ceil(rows.shape[1] * new / orig))
    parts = []
    for at in outputs.split(max(1, _CHUNK // (len(rows) * len(taps)))):
        kernel = _kernel(taps - (at * orig % new / new).double()[:, None], scale)
        inputs = padded[:, (at * orig // new)[:, None] + taps + width]
        parts.append(torch.einsum("cnk,nk->cn", inputs, kernel))
    return torch.cat(parts, dim=1).reshape(*audio.shape[:-1], -1)


def _kernel(offset: Tensor, scale: float) -> Tensor:
    """Computes the taps at given offsets, in input samples, from an output sample."""
    position = (offset * scale).clamp_(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = torch.cos(position * (math.pi / _ZERO_CROSSINGS / 2)) ** 2
    return (torch.sinc(position) * window * scale).float()


def _limit_lhotse() -> None:
    """Makes Lhotse avoid large tables too; it resamples audio as it reads it, for rates, speed factors and codecs."""
    library, original = lhotse.augmentation.torchaudio, lhotse.augmentation.torchaudio.get_or_create_resampler

    def get_or_create_resampler(orig: int, new: int) -> object:
        return original(orig, new) if _table(orig, new) <= _LARGEST_TABLE else partial(_evaluated, orig=orig, new=new)

    library.get_or_create_resampler = get_or_create_resampler


_limit_lhotse()
