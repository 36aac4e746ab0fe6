"""Log-mel features of a waveform.

Feature frame t is centered on sample `hop * t`, so it needs half a window (12.5 ms) after its center and reaches 2.5 ms
past its own hop of 10 ms. That is the whole look-ahead of the front end. The frames of `kind="sherpa"` are centered on
the middle of their hop and reach 7.5 ms past it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from streamnest.errors import UserError
from streamnest.randomness import fold_keys, normal, random_keys

KINDS = ("nest", "sherpa")
LOG_GUARD = 2.0**-24
# Smallest energy of a band that sherpa-onnx distinguishes.
ENERGY_FLOOR = 2.0**-23
_DITHER_STREAM = 0xD17E


@dataclass
class FrontendConfig:
    """Schema of the `frontend` node."""

    _target_: str = "streamnest.frontend.LogMel"
    sample_rate: int = 16000
    num_mels: int = 80
    window_ms: float = 25.0
    hop_ms: float = 10.0
    n_fft: int = 512
    preemphasis: float = 0.97
    dither: float = 1e-5
    # nest: the features of NEST. sherpa: those that the runtime sherpa-onnx computes for NeMo models (docs/SHERPA.md);
    # a model trained with them gives the same text there.
    kind: str = "nest"


class FrontendState(NamedTuple):
    """State of the front end between streaming steps; rows are independent streams.

    Attributes:
        previous: `(B, 1)` last sample, for pre-emphasis of the next one.
        buffer: `(B, n)` pre-emphasized samples that later windows still need.
        position: `(B,)` samples consumed.
        frames: `(B,)` feature frames emitted.
    """

    previous: Tensor
    buffer: Tensor
    position: Tensor
    frames: Tensor


class LogMel(nn.Module):
    """Log-mel filter bank, `(B, N)` samples -> `(B, num_mels, T)` with `T = N // hop`.

    Pre-emphasis, Hann window, power spectrum, Slaney mel scale and logarithm. Frames are cut from the padded signal and
    transformed one by one, not by an STFT of the whole utterance, so that a stream of samples gives the same frames.

    Kinds: `nest` has the values of the NEST front end. Its window is symmetric and begins at `hop t - window / 2`,
    zeros precede the signal, and the logarithm is `log(x + 2^-24)`. `sherpa` has the values that sherpa-onnx 2.0.1
    computes for NeMo models: a periodic window that begins at `hop t + (hop - window) / 2`, the signal reflected at its
    start, and `log(max(x, 2^-23))`.

    Stride: `hop_ms`. Look-ahead: `lookahead_samples` past the end of the frame's own hop.

    Args:
        sample_rate: samples per second.
        num_mels: number of mel bands.
        window_ms: length of the analysis window.
        hop_ms: stride.
        n_fft: DFT size; the window is zero-padded to this size.
        preemphasis: coefficient of `y[n] = x[n] - c x[n-1]`; the first sample is kept.
        dither: standard deviation of noise added in training, so that digital silence does not hit the log guard.
        kind: one of the kinds above.

    Attributes:
        past: samples of a window before the hop of its frame.
        lookahead_samples: samples after the frame's own hop that change it, without the zero that ends a
            symmetric Hann window.

    Raises:
        UserError: for a window longer than the DFT or shorter than a hop, and for an unknown kind.
    """

    window: Tensor
    filterbank: Tensor

    def __init__(
        self,
        sample_rate: int = FrontendConfig.sample_rate,
        num_mels: int = FrontendConfig.num_mels,
        window_ms: float = FrontendConfig.window_ms,
        hop_ms: float = FrontendConfig.hop_ms,
        n_fft: int = FrontendConfig.n_fft,
        preemphasis: float = FrontendConfig.preemphasis,
        dither: float = FrontendConfig.dither,
        kind: str = FrontendConfig.kind,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UserError(f"frontend.kind={kind!r} is unknown: choose one of {', '.join(KINDS)}")
        self.sample_rate, self.num_mels, self.n_fft = sample_rate, num_mels, n_fft
        self.hop = round(hop_ms * sample_rate / 1000)
        self.preemphasis, self.dither, self.kind = preemphasis, dither, kind
        window_length = round(window_ms * sample_rate / 1000)
        if window_length > n_fft:
            raise UserError(
                f"frontend.window_ms={window_ms:g} is {window_length} samples, but frontend.n_fft={n_fft}: raise n_fft"
            )
        if kind == "sherpa" and window_length < 2 * self.hop:
            raise UserError(
                f"frontend.kind=sherpa needs a window of at least two hops: frontend.window_ms={window_ms:g}, "
                f"frontend.hop_ms={hop_ms:g}"
            )
        self.past = window_length // 2 if kind == "nest" else (window_length - self.hop) // 2
        bank = melscale_fbanks(n_fft // 2 + 1, 0.0, sample_rate / 2, num_mels, sample_rate, "slaney", "slaney")
        window = torch.hann_window(window_length, periodic=kind == "sherpa")
        self.register_buffer("window", window, persistent=False)
        taps = int(window.nonzero().max()) + 1
        self.lookahead_samples = taps - self.past - self.hop
        self.register_buffer("filterbank", bank, persistent=False)

    @property
    def hop_ms(self) -> float:
        """Milliseconds from one feature frame to the next."""
        return 1000.0 * self.hop / self.sample_rate

    @property
    def window_overhang_ms(self) -> float:
        """Milliseconds from the end of a hop until the window over it is complete."""
        return 1000.0 * self.overhang / self.sample_rate

    @property
    def overhang(self) -> int:
        """Samples from the end of a hop until the window over it is complete."""
        return len(self.window) - self.past - self.hop

    def num_frames(self, samples: Tensor) -> Tensor:
        """Returns the number of valid feature frames: those whose own hop is complete."""
        return samples // self.hop

    @torch.no_grad()
    def forward(self, audio: Tensor, lengths: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Computes features; does not modify the audio.

        Args:
            audio: `(B, N)` samples in [-1, 1].
            lengths: `(B,)` valid samples.
            keys: `(B,)` random keys of the dither, used in training only.

        Returns:
            Log-mel `(B, num_mels, T)`, zero past each row's length, and valid frames `(B,)`.
        """
        audio = self._dithered(audio.to(self.window.dtype), keys)
        before, previous = self._before(audio)
        emphasized = self._zero_past(self._differences(torch.cat([previous, audio], dim=1)), lengths)
        padded = F.pad(torch.cat([before, emphasized], dim=1), (0, len(self.window) - self.past))
        frames = padded.unfold(-1, len(self.window), self.hop)[:, : audio.shape[-1] // self.hop]
        features = self.from_frames(frames).transpose(1, 2)
        num_frames = self.num_frames(lengths)
        return self._zero_past(features, num_frames), num_frames

    def init_state(self, batch: int) -> FrontendState:
        """Creates the state of `batch` streams before their first sample: silence."""
        zeros, none = self.window.new_zeros, torch.zeros(batch, dtype=torch.long, device=self.window.device)
        return FrontendState(zeros(batch, 1), zeros(batch, self.past), none, none)

    @torch.no_grad()
    def step(self, audio: Tensor, state: FrontendState, end: Tensor | None = None) -> tuple[Tensor, FrontendState]:
        """Computes the features of all complete windows, with the arithmetic of `forward`.

        Args:
            audio: the next samples `(B, n)` of each stream. With `kind="sherpa"` the first piece is empty or has at
                least `past` samples, which are reflected.
            state: state from `init_state` or the previous step.
            end: `(B,)` samples in each whole stream, for streams that end; samples after it are ignored.

        Returns:
            Log-mel `(B, num_mels, k)`, zero past the end, and the next state.
        """
        audio, (previous, buffer) = audio.to(self.window.dtype), state[:2]
        if self.kind == "sherpa" and audio.shape[1] and buffer.shape[1] == self.past:  # later buffers are longer
            buffer, previous = self._before(audio)
        following = torch.cat([previous, audio], dim=1)
        emphasized = self._differences(following)
        if end is not None:
            emphasized = self._zero_past(emphasized, end - state.position)
        buffer = torch.cat([buffer, emphasized], dim=1)
        count = max(0, (buffer.shape[1] - len(self.window)) // self.hop + 1)
        whole = buffer[:, : (count - 1) * self.hop + len(self.window)] if count else buffer[:, :0]
        frames = whole.unfold(-1, len(self.window), self.hop) if count else whole.new_zeros(len(audio), 0, 1)
        features = self.from_frames(frames).transpose(1, 2)
        if end is not None:
            features = self._zero_past(features, self.num_frames(end) - state.frames)
        rest = buffer[:, count * self.hop :]
        return features, FrontendState(following[:, -1:], rest, state.position + audio.shape[1], state.frames + count)

    def from_frames(self, frames: Tensor) -> Tensor:
        """Computes log-mel features of pre-emphasized frames: `(..., window)` -> `(..., num_mels)`."""
        if frames.numel() == 0:  # the FFT library rejects an empty batch
            return frames.new_zeros(*frames.shape[:-1], self.num_mels)
        with torch.autocast(frames.device.type, enabled=False):
            spectrum = torch.fft.rfft(frames * self.window, self.n_fft)
            return self.logarithm(torch.view_as_real(spectrum).square().sum(-1) @ self.filterbank)

    def logarithm(self, energy: Tensor) -> Tensor:
        """Returns the logarithm of mel energies, bounded for silence."""
        return torch.log(energy + LOG_GUARD if self.kind == "nest" else energy.clamp_min(ENERGY_FLOOR))

    def _before(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the pre-emphasized samples `(B, past)` before a signal, and the last sample `(B, 1)` before it."""
        if self.kind == "nest":
            return audio.new_zeros(len(audio), self.past), audio.new_zeros(len(audio), 1)
        reflected = audio[:, : self.past].flip(1)
        # The first sample has weight 0 in a periodic Hann window.
        emphasized = F.pad(self._differences(reflected), (1, 0))
        return F.pad(emphasized, (self.past - emphasized.shape[1], 0)), audio[:, :1]

    def _differences(self, audio: Tensor) -> Tensor:
        return audio[:, 1:] - self.preemphasis * audio[:, :-1]

    def _dithered(self, audio: Tensor, keys: Tensor | None) -> Tensor:
        if not self.training or self.dither == 0.0:
            return audio
        keys = random_keys(len(audio), audio.device) if keys is None else keys
        return audio + self.dither * normal(fold_keys(keys, _DITHER_STREAM), audio.shape[1])

    @staticmethod
    def _zero_past(x: Tensor, lengths: Tensor) -> Tensor:
        valid = torch.arange(x.shape[-1], device=x.device) < lengths[:, None]
        return x * (valid if x.ndim == 2 else valid[:, None])
