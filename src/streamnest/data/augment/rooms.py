"""Room impulse responses, recorded and simulated, that start with the direct path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lhotse.cut import Cut
from numpy.typing import NDArray

from streamnest.data.audio import Samples
from streamnest.data.augment.recordings import RecordingBank

Response = NDArray[np.float64]

# The usual boundary between the direct path and reflections, in seconds.
_DIRECT = 0.0025
# Maximum seconds of a recorded response: the cost grows with the length, and few rooms reverberate longer.
_LONGEST = 2.0


class RoomBank(RecordingBank):
    """Samples recorded responses, and uses their first channel: the mean of microphones is not a response.

    Args:
        cuts: one response each, at the sampling rate of the speech.
        cache_size: number of decoded cuts that each process keeps.

    Raises:
        UserError: if there are no cuts.
    """

    def __init__(self, cuts: Sequence[Cut], cache_size: int = 64) -> None:
        super().__init__(cuts, "room impulse response", channel="first", cache_size=cache_size)

    def sample(self, rng: np.random.Generator, sampling_rate: int) -> Response | None:
        """Samples a response, see `from_direct_path`; None if several in a row are unreadable."""
        recorded = self.pick(rng)
        return None if recorded is None else from_direct_path(recorded, sampling_rate)


def from_direct_path(recorded: Samples, sampling_rate: int) -> Response:
    """Trims a response `(N,)` to start at its peak, the direct path, which is made positive; scales it to energy 1.

    The samples before the peak hold the propagation delay, noise and the ringing of filters. Without them speech is
    neither delayed nor smeared into the past.
    """
    peak = int(np.abs(recorded).argmax())
    response = recorded[peak : peak + round(_LONGEST * sampling_rate)].astype(np.float64)
    return response * (np.sign(response[0]) / np.sqrt(np.square(response).sum()))


def simulate(rng: np.random.Generator, t60: float, drr_db: float, sampling_rate: int) -> Response:
    """Simulates a response: a direct path and, 2.5 ms later, exponentially decaying white noise (Polack 1988).

    The energy is 1. This models late reverberation, without distinct early reflections and without coloration.
    Lhotse's random generator has reflections, but it uses torch's global generator and its rounding depends on the
    number of threads, so that a run could not be resumed exactly.

    Args:
        rng: generator of the noise.
        t60: seconds in which reverberation decays by 60 dB; the response ends there.
        drr_db: direct-to-reverberant energy ratio in dB.
        sampling_rate: sampling rate in Hz.

    Returns:
        `(N,)` samples.
    """
    gap, length = round(_DIRECT * sampling_rate), round(t60 * sampling_rate)
    response = np.zeros(length)
    response[0] = 1.0
    decay = 10.0 ** (-3.0 * np.arange(length - gap) / length)
    response[gap:] = rng.standard_normal(length - gap) * decay
    response[gap:] *= np.sqrt(10 ** (-drr_db / 10) / np.square(response[gap:]).sum())
    return response / np.sqrt(np.square(response).sum())


def convolve(audio: Samples, response: Response) -> Samples:
    """Convolves `audio` `(N,)` with a response `(K,)`: `y[n] = sum_k response[k] audio[n - k]`, `(N,)`.

    Uses overlap-add, because one large transform takes up to five times as long. Uses float64, because the rounding of
    a transform leaks the future into the past; in float64 this is far below the resolution of the float32 result.
    """
    size = 1 << (2 * len(response)).bit_length()
    step = size - len(response) + 1
    blocks = np.zeros((-(-len(audio) // step), step))
    blocks.reshape(-1)[: len(audio)] = audio
    wet = np.fft.irfft(np.fft.rfft(blocks, size) * np.fft.rfft(response, size), size)
    wet[1:, : size - step] += wet[:-1, step:]
    return wet[:, :step].reshape(-1)[: len(audio)].astype(np.float32)
