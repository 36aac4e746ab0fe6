"""How much is heard of each source in an epoch."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from streamnest.data.sampling.durations import Floats, Lengths, total
from streamnest.errors import UserError
from streamnest.randomness import numpy_generator

# Once, however many processes there are.
_info = rank_zero_only(logging.getLogger(__name__).info)

# Steps of it spread over a circle more evenly than those of any other number.
_GOLDEN = (math.sqrt(5) - 1) / 2


class Mixture:
    """How often each source is heard in an epoch, so that sources have the shares of it that are asked for.

    An epoch lasts as long as all sources together.

    Args:
        lengths: `(N,)` seconds, sources in a row.
        sizes: utterances of each source.
        shares: of each source in the audio of an epoch; they need not add up to 1.

    Attributes:
        rates: how often an utterance of each source is heard.
    """

    def __init__(self, lengths: Lengths, sizes: Sequence[int], shares: Sequence[float]) -> None:
        ends = np.cumsum(sizes).tolist()
        hours = [total(lengths, end - size, end) for size, end in zip(sizes, ends)]
        everything, weight = total(lengths), float(sum(shares))
        self.sizes = sizes
        self.rates = [share / weight * everything / part for share, part in zip(shares, hours)]

    def slots(self, durations: Floats, sizes: Sequence[int]) -> Slots:
        """Those of an epoch of some of the utterances, with sizes of their own: all, or those of a section."""
        return Slots(durations, sizes, self.rates)


class Slots:
    """Fixed slots that are filled anew in each epoch.

    A source of `n` utterances gets `m` slots, as many as its rate says, and slot `j` is filled from the `j`-th of `m`
    equal pieces of the source sorted by duration: where it lies in the piece depends on (seed, epoch) and moves so that
    all are heard equally often, each `m / n` times an epoch rounded up or down. `m = n` is every utterance once.

    The slots have the longest duration of their pieces, in every epoch, so that the number and sizes of batches are
    fixed too: utterances of an epoch are a pure function of (seed, epoch), a resume costs one such function, and
    batches hold all sources. The price is padding, where a source has so few slots that their pieces are wide.

    Args:
        durations: `(N,)` seconds, sources in a row.
        sizes: utterances of each source; one without any has no slots.
        rates: slots an utterance, of each source.

    Attributes:
        numbers: slots of each source.
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
        """What fills the slots of an epoch, `(M,)`."""
        return np.concatenate([self._fill(source, seed, epoch) for source in range(len(self.numbers))])

    def _fill(self, source: int, seed: int, epoch: int) -> NDArray[np.int32]:
        ranked, slots, last = self._sorted[source], self.numbers[source], self._last[source]
        start = numpy_generator(seed, source, "mixture").random()
        place = (start + epoch * _GOLDEN) % 1.0
        ranks = ((np.arange(slots) + place) * (len(ranked) / max(1, slots))).astype(np.int64)
        # Rounding must not push a slot beyond its piece.
        return ranked[np.minimum(ranks, last)]


def count_slots(rate: float, size: int) -> int:
    """Slots of so many utterances: one at least, where there is any."""
    return max(1, round(rate * size)) if size else 0


def make_mixture(
    lengths: Lengths,
    sizes: Sequence[int],
    names: Sequence[str],
    weights: Sequence[float | None],
    temperature: float | None,
) -> Mixture | None:
    """The mixture of sources; None where nothing is asked for: every utterance once an epoch.

    Args:
        lengths: `(N,)` seconds, sources in a row.
        sizes: utterances of each source.
        names: of the sources.
        weights: shares of the audio: of every source or of none.
        temperature: shares are hours to the power of 1 / temperature: 1 is as they are, more favours small sources.

    Raises:
        UserError: for weights of some sources only, weights and a temperature, or one that is not positive.
    """
    given = [weight for weight in weights if weight is not None]
    if not given and temperature is None:
        return None
    if given and len(given) < len(weights):
        raise UserError(
            f"source {names[list(weights).index(None)]} has no weight, others have; give all of them or none"
        )
    if given and temperature is not None:
        raise UserError(f"temperature={temperature} and weights of sources: choose one of them")
    if temperature is not None and not temperature > 0:
        raise UserError(f"temperature={temperature}: need a number above 0")
    ends = np.cumsum(sizes).tolist()
    hours = [total(lengths, end - size, end) / 3600 for size, end in zip(sizes, ends)]
    shares = np.array(given) if temperature is None else np.power(hours, 1 / temperature)
    mixture = Mixture(lengths, sizes, shares.tolist())
    for name, share, rate, size in zip(names, shares / shares.sum(), mixture.rates, sizes):
        heard = count_slots(rate, size) / size
        _info("source %s: %.1f %% of the audio, %.3g times an epoch", name, 100 * share, heard)
    return mixture
