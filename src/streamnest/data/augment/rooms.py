"""Room impulse responses, recorded and simulated, that begin with the direct path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lhotse.cut import Cut
from numpy.typing import NDArray

from streamnest.data.audio import Samples
from streamnest.data.augment.recordings import RecordingBank

Response = NDArray[np.float64]

# The usual border between the direct path and reflections, in seconds.
_DIRECT = 0.0025
# Seconds of a recorded response; the few rooms that sound longer are cut off, as the cost grows with the length.
_LONGEST = 2.0


class RoomBank(RecordingBank):
    """Recorded responses; of several channels the first, as the mean of microphones is no room.

    Args:
        cuts: one response each, at the sampling rate of the speech.
        cache_size: cuts kept decoded in each process.

    Raises:
        UserError: for no cuts.
    """

    def __init__(self, cuts: Sequence[Cut], cache_size: int = 64) -> None:
        super().__init__(cuts, "room impulse response", channel="first", cache_size=cache_size)

    def draw(self, rng: np.random.Generator, sampling_rate: int) -> Response | None:
        """A random response as `from_direct_path` makes it; None when several in a row were unreadable."""
        recorded = self.pick(rng)
        return None if recorded is None else from_direct_path(recorded, sampling_rate)


def from_direct_path(recorded: Samples, sampling_rate: int) -> Response:
    """A response `(N,)` cut to begin at its peak, the direct path, which becomes positive; of energy 1.

    What comes before the peak is the way through the air, noise and the ringing of filters. Without it the speech is
    neither late nor heard before it is spoken.
    """
    peak = int(np.abs(recorded).argmax())
    response = recorded[peak : peak + round(_LONGEST * sampling_rate)].astype(np.float64)
    return response * (np.sign(response[0]) / np.sqrt(np.square(response).sum()))


def simulate(rng: np.random.Generator, t60: float, drr_db: float, sampling_rate: int) -> Response:
    """A direct path and, 2.5 ms later, white noise that decays exponentially (Polack 1988); of energy 1.

    A model of the late part of a room: it has no single early reflections and no colour. Lhotse's random generator has
    reflections, but it draws from torch's global generator and rounds by the number of threads, so that a run could
    not be resumed exactly.

    Args:
        rng: of the noise.
        t60: seconds in which reverberation decays by 60 dB; the response ends there.
        drr_db: energy of the direct path above that of the reverberation.
        sampling_rate: in Hz.

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
    """`audio` `(N,)` as heard through a response `(K,)`: `y[n] = sum_k response[k] audio[n - k]`, `(N,)`.

    In overlapping blocks, as one large transform takes up to five times as long. In float64, as the rounding of a
    transform does carry the future into the past: far below what float32 can tell.
    """
    size = 1 << (2 * len(response)).bit_length()
    step = size - len(response) + 1
    blocks = np.zeros((-(-len(audio) // step), step))
    blocks.reshape(-1)[: len(audio)] = audio
    heard = np.fft.irfft(np.fft.rfft(blocks, size) * np.fft.rfft(response, size), size)
    heard[1:, : size - step] += heard[:-1, step:]
    return heard[:, :step].reshape(-1)[: len(audio)].astype(np.float32)
