"""Mixing of sources: the share of each source in an epoch."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from streamnest.data.sampling.durations import Durations, Floats, total
from streamnest.errors import UserError
from streamnest.randomness import numpy_generator

# Logged by one process only.
_info = rank_zero_only(logging.getLogger(__name__).info)

# Multiples of the golden ratio, modulo 1, cover [0, 1) more evenly than those of any other number.
_GOLDEN = (math.sqrt(5) - 1) / 2


class Mixture:
    """Repetition rate of each source in an epoch, which gives the sources their shares of the audio.

    An epoch is as long as all sources together.

    Args:
        durations: `(N,)` seconds, sources concatenated.
        sizes: number of utterances of each source.
        shares: share of each source in the audio of an epoch; the shares need not add up to 1.

    Attributes:
        rates: mean number of times that an utterance of each source occurs in an epoch.
    """

    def __init__(self, durations: Durations, sizes: Sequence[int], shares: Sequence[float]) -> None:
        ends = np.cumsum(sizes).tolist()
        hours = [total(durations, end - size, end) for size, end in zip(sizes, ends)]
        everything, weight = total(durations), float(sum(shares))
        self.sizes = sizes
        self.rates = [share / weight * everything / part for share, part in zip(shares, hours)]

    def slots(self, durations: Floats, sizes: Sequence[int]) -> Slots:
        """Returns the slots for all utterances or those of a section; `sizes` are the numbers from each source."""
        return Slots(durations, sizes, self.rates)


class Slots:
    """Fixed slots that are filled with other utterances in each epoch.

    A source of `n` utterances gets `m` slots according to its rate. Slot `j` is filled from the `j`-th of `m` equal
    parts of the source, sorted by duration. The position inside the part depends on (seed, epoch) and moves such that
    all utterances occur equally often: `m / n` times an epoch, rounded up or down. If `m = n`, each occurs once.

    A slot has the longest duration of its part in every epoch, so that the number and the sizes of batches are fixed
    too: the utterances of an epoch are a pure function of (seed, epoch), a resume evaluates it once, and batches mix
    all sources. The cost is padding if a source has so few slots that their parts are wide.

    Args:
        durations: `(N,)` seconds, sources concatenated.
        sizes: number of utterances of each source; an empty source has no slots.
        rates: number of slots per utterance of each source.

    Attributes:
        numbers: number of slots of each source.
        durations: `(M,)` seconds of the slots.
    """

    def __init__(self, durations: Floats, sizes: Sequence[int], rates: Sequence[float]) -> None:
        ends = np.cumsum(sizes)
        parts = np.split(np.asarray(durations, np.float64), ends[:-1])
        self._sorted = [
            (np.argsort(p, kind="stable") + end - len(p)).astype(np.int32) for p, end in zip(parts, ends.tolist())
        ]
        self.numbers = [count_slots(rate, size) for rate, size in zip(rates, sizes)]
        self._last = [(-(-np.arange(1, m + 1) * n // m) - 1).astype(np.int32) for n, m in zip(sizes, self.numbers)]
        self.durations: Floats = np.concatenate([durations[s[at]] for s, at in zip(self._sorted, self._last)])

    def utterances(self, seed: int, epoch: int) -> NDArray[np.int32]:
        """Returns the utterances in the slots of an epoch, `(M,)`."""
        return np.concatenate([self._fill(source, seed, epoch) for source in range(len(self.numbers))])

    def _fill(self, source: int, seed: int, epoch: int) -> NDArray[np.int32]:
        ranked, slots, last = self._sorted[source], self.numbers[source], self._last[source]
        start = numpy_generator(seed, source, "mixture").random()
        position = (start + epoch * _GOLDEN) % 1.0
        ranks = ((np.arange(slots) + position) * (len(ranked) / max(1, slots))).astype(np.int64)
        # Rounding must not move a slot beyond its part.
        return ranked[np.minimum(ranks, last)]


def count_slots(rate: float, size: int) -> int:
    """Returns the number of slots of a source of `size` utterances: at least one unless it is empty."""
    return max(1, round(rate * size)) if size else 0


def make_mixture(
    durations: Durations,
    sizes: Sequence[int],
    names: Sequence[str],
    weights: Sequence[float | None],
    temperature: float | None,
) -> Mixture | None:
    """Makes the mixture of sources; None without weights and temperature: every utterance once an epoch.

    Args:
        durations: `(N,)` seconds, sources concatenated.
        sizes: number of utterances of each source.
        names: names of the sources, for messages.
        weights: share of each source in the audio; for all sources or for none.
        temperature: shares are hours to the power of 1 / temperature: 1 keeps the proportions, larger values favor
            small sources.

    Raises:
        UserError: if only some sources have weights, if there are weights and a temperature, or if the temperature is
            not positive.
    """
    given = [weight for weight in weights if weight is not None]
    if not given and temperature is None:
        return None
    if given and len(given) < len(weights):
        raise UserError(
            f"source {names[list(weights).index(None)]} has no weight, but others have; give weights to all or to none"
        )
    if given and temperature is not None:
        raise UserError(f"data.temperature={temperature} and weights of sources are both set; choose one of them")
    if temperature is not None and not temperature > 0:
        raise UserError(f"data.temperature={temperature}: need a number above 0")
    ends = np.cumsum(sizes).tolist()
    hours = [total(durations, end - size, end) / 3600 for size, end in zip(sizes, ends)]
    shares = np.array(given) if temperature is None else np.power(hours, 1 / temperature)
    mixture = Mixture(durations, sizes, shares.tolist())
    for name, share, rate, size in zip(names, shares / shares.sum(), mixture.rates, sizes):
        repeats = count_slots(rate, size) / size
        _info("source %s: %.1f %% of the audio, %.3g times an epoch", name, 100 * share, repeats)
    return mixture
