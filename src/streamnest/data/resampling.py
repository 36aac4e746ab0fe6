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


def resample_blocks(blocks: Iterable[Tensor], orig: int, new: int) -> Iterator[Tensor]:
    """Resamples consecutive blocks `(n,)` of a signal, in memory that does not depend on its length.

    The concatenated results are those of `resample` on the whole signal.

    Args:
        blocks: float32 samples.
        orig: sampling rate of the blocks in Hz.
        new: sampling rate of the results in Hz.
    """
    if orig == new:
        yield from blocks
        return
    divisor = math.gcd(orig, new)
    unit, scale = orig // divisor, min(orig, new) * _ROLLOFF / orig
    # Samples around an output that it depends on, in whole units, which have whole numbers of outputs.
    margin = (math.ceil(_ZERO_CROSSINGS / scale) // unit + 1) * unit
    outputs = margin // unit * (new // divisor)
    held = torch.zeros(margin)
    for block in blocks:
        held = torch.cat([held, block])
        inner = (len(held) - 2 * margin) // unit * unit
        if inner > margin:
            yield resample(held[: inner + 2 * margin], orig, new)[outputs : outputs + inner // unit * (new // divisor)]
            held = held[inner:]
    rest = math.ceil((len(held) - margin) * new / orig)
    yield resample(torch.cat([held, held.new_zeros(margin)]), orig, new)[outputs : outputs + rest]


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
