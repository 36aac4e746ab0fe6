"""Resampling in bounded memory, for any pair of sampling rates.

torchaudio and Lhotse tabulate the filter for every phase: `orig/gcd x new/gcd` taps, which is 13 GB for 44,099 Hz to
16 kHz. Above a limit the same filter is evaluated where it is needed instead.
"""

from __future__ import annotations

import math
from functools import partial

import lhotse.augmentation.torchaudio
import torch
from torch import Tensor
from torchaudio.functional import resample as tabulated

# Taps of a table: 8 MB. The rates that audio is recorded at need less, and speed factors of two digits.
_LARGEST_TABLE = 2**21
# Taps that are evaluated at once: some 8 MB each for a few temporary arrays.
_AT_ONCE = 2**20
# Those of torchaudio and Lhotse.
_ZERO_CROSSINGS, _ROLLOFF = 6, 0.99


def resample(audio: Tensor, orig: int, new: int) -> Tensor:
    """Resamples `(..., N)` to `(..., ceil(N * new / orig))`, in memory that depends on the audio alone.

    Args:
        audio: float32.
        orig: rate of the audio in Hz.
        new: rate of the result in Hz.
    """
    return tabulated(audio, orig, new) if _table(orig, new) <= _LARGEST_TABLE else _evaluated(audio, orig, new)


def _table(orig: int, new: int) -> int:
    """Taps of a filter that is tabulated."""
    divisor = math.gcd(orig, new)
    return (orig // divisor) * (new // divisor)


def _evaluated(audio: Tensor, orig: int, new: int) -> Tensor:
    """The filter of torchaudio (a sinc in a Hann window), evaluated for each output sample."""
    divisor = math.gcd(orig, new)
    orig, new = orig // divisor, new // divisor
    scale = min(orig, new) * _ROLLOFF / orig
    width = math.ceil(_ZERO_CROSSINGS / scale)
    taps = torch.arange(-width, width + 1)
    rows = audio.reshape(-1, audio.shape[-1])
    padded = torch.nn.functional.pad(rows, (width, width + 1))
    outputs = torch.arange(math.ceil(rows.shape[1] * new / orig))
    parts = []
    for at in outputs.split(max(1, _AT_ONCE // (len(rows) * len(taps)))):
        kernel = _kernel(taps - (at * orig % new / new).double()[:, None], scale)
        heard = padded[:, (at * orig // new)[:, None] + taps + width]
        parts.append(torch.einsum("cnk,nk->cn", heard, kernel))
    return torch.cat(parts, dim=1).reshape(*audio.shape[:-1], -1)


def _kernel(offset: Tensor, scale: float) -> Tensor:
    """Taps at so many input samples from an output sample."""
    place = (offset * scale).clamp_(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = torch.cos(place * (math.pi / _ZERO_CROSSINGS / 2)) ** 2
    return (torch.sinc(place) * window * scale).float()


def _limit_lhotse() -> None:
    """Lets Lhotse resample large tables as above; it does so on reading, for rates, speed factors and codecs."""
    library, as_it_was = lhotse.augmentation.torchaudio, lhotse.augmentation.torchaudio.get_or_create_resampler

    def get_or_create_resampler(orig: int, new: int) -> object:
        return as_it_was(orig, new) if _table(orig, new) <= _LARGEST_TABLE else partial(_evaluated, orig=orig, new=new)

    library.get_or_create_resampler = get_or_create_resampler


_limit_lhotse()
