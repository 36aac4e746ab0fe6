"""Noise and other speakers mixed into what the encoder hears; the targets keep coming from the clean audio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamnest.data.audio import Samples
from streamnest.data.augment.noise import NoiseBank, stretch
from streamnest.data.augment.ranges import check_range, check_share, draw_integer, draw_uniform
from streamnest.randomness import numpy_generator

_STREAM = 0xA06
Span = tuple[int, int]


class NoiseAndSpeakerMixing:
    """Denoising augmentation of NEST (Huang et al. 2024): noise or speech of other rows, over a part of each row.

    The ratio is 10 log10(E_row / E_mix) dB, both energies averaged over the whole row, so that at a mix rate of 0.5 the
    covered half is 3 dB noisier than the ratio says. The sum is not clipped or normalised: it may pass [-1, 1].

    Every draw for a row depends on (seed, step, cut id) alone; mixed-in speech of course also on the other rows.
    A row stays clean where there is nothing to mix: silence, no noise corpus, nobody else in the batch.

    Args:
        prob: share of rows that are mixed; the others stay untouched.
        noise_ratio: share of the mixed rows that get noise; the others get speech. What is not to be had is
            replaced by the other kind.
        noise_db: range of the ratio for noise.
        speech_db: range of the ratio for speech.
        mix_rate: range of the share of the row that is covered.
        segments: range of the number of segments the covered part is cut into, placed at random without overlap.
        speakers: range of the number of rows that mixed-in speech comes from, each segment from one of them.
        seed: of all draws.
        noise: where noise comes from; may be set later.

    Raises:
        UserError: for ranges that are reversed or out of bounds.
    """

    def __init__(
        self,
        prob: float = 0.5,
        noise_ratio: float = 0.5,
        noise_db: Sequence[float] = (-5.0, 20.0),
        speech_db: Sequence[float] = (-5.0, 5.0),
        mix_rate: Sequence[float] = (0.5, 0.5),
        segments: Sequence[int] = (1, 1),
        speakers: Sequence[int] = (1, 1),
        seed: int = 0,
        noise: NoiseBank | None = None,
    ) -> None:
        check_share("prob", prob)
        check_share("noise_ratio", noise_ratio)
        check_range("noise_db", noise_db)
        check_range("speech_db", speech_db)
        check_range("mix_rate", mix_rate, 0, 1)
        check_range("segments", segments, 1)
        check_range("speakers", speakers, 1)
        self.prob, self.noise_ratio = prob, noise_ratio
        self.noise_db, self.speech_db, self.mix_rate = noise_db, speech_db, mix_rate
        self.segments, self.speakers = segments, speakers
        self.seed, self.noise = seed, noise

    def __call__(
        self,
        clean: Tensor,
        lengths: Tensor,
        ids: Sequence[str],
        step: int,
        speakers: Sequence[str | None] | None = None,
    ) -> Tensor:
        """Mixes a batch.

        Args:
            clean: `(B, N)`; left as it is.
            lengths: `(B,)` valid samples.
            ids: cut ids.
            step: of the batch.
            speakers: of the rows where known; a row is not mixed with speech of its own speaker.

        Returns:
            `(B, N)`, zero beyond each row's length; `clean` itself when no row was mixed.
        """
        names = speakers or [None] * len(ids)
        rows = [audio[:length] for audio, length in zip(clean.numpy(), lengths.tolist())]
        noisy = None
        for index, cut_id in enumerate(ids):
            rng = numpy_generator(self.seed, step, cut_id, _STREAM)
            mix = self._mix(rng, rows, index, names)
            if mix is not None:
                noisy = clean.clone() if noisy is None else noisy
                noisy[index, : len(mix)] += torch.from_numpy(mix)
        return clean if noisy is None else noisy

    def _mix(
        self, rng: np.random.Generator, rows: Sequence[Samples], index: int, names: Sequence[str | None]
    ) -> Samples | None:
        """What is added to a row, `(L,)`, or None."""
        if rng.random() >= self.prob:
            return None
        others = [
            other
            for other, name in enumerate(names)
            if other != index and (name is None or name != names[index]) and len(rows[other])
        ]
        wants_noise = rng.random() < self.noise_ratio
        use_noise = self.noise is not None and (wants_noise or not others)
        if not use_noise and not others:
            return None
        ratio_db = draw_uniform(rng, self.noise_db if use_noise else self.speech_db)
        rate, count = draw_uniform(rng, self.mix_rate), draw_integer(rng, self.segments)
        spans = place_segments(rng, len(rows[index]), rate, count)
        mix = np.zeros(len(rows[index]), np.float32)
        if use_noise:
            self._add_noise(rng, mix, spans)
        else:
            chosen = rng.permutation(others)[: draw_integer(rng, self.speakers)]
            for start, stop in spans:
                mix[start:stop] = stretch(rng, rows[rng.choice(chosen)], stop - start)
        return scale_to_ratio(rows[index], mix, ratio_db)

    def _add_noise(self, rng: np.random.Generator, mix: Samples, spans: Sequence[Span]) -> None:
        """All segments are cut from one stretch of noise."""
        noise = self.noise.draw(rng, sum(stop - start for start, stop in spans)) if self.noise else None
        if noise is not None:
            pieces = np.split(noise, np.cumsum([stop - start for start, stop in spans])[:-1])
            for (start, stop), piece in zip(spans, pieces):
                mix[start:stop] = piece


def place_segments(rng: np.random.Generator, length: int, rate: float, count: int) -> list[Span]:
    """Spans of random lengths that cover `rate` of `length` samples, from left to right with random gaps.

    There are fewer than `count` where there are fewer samples to cover; each holds at least one.
    """
    if not length:
        return []
    covered = max(1, int(length * rate))
    count = min(count, covered)
    sizes = 1 + rng.multinomial(covered - count, np.full(count, 1 / count))
    gaps = np.sort(rng.integers(0, length - covered + 1, size=count))
    starts = gaps + np.cumsum(sizes) - sizes
    return [(int(start), int(start + size)) for start, size in zip(starts, sizes)]


def scale_to_ratio(speech: Samples, mix: Samples, ratio_db: float) -> Samples | None:
    """`mix` scaled so that the energy of `speech` is `ratio_db` above its own; None where either is silent."""
    # Not a dot product: BLAS would wake its threads, which are busy with the model.
    energies: NDArray[np.float64] = np.array([np.square(x, dtype=np.float64).sum() for x in (speech, mix)])
    if not (energies > 0).all() or not np.isfinite(energies).all():
        return None
    return (mix * np.sqrt(energies[0] / energies[1] * 10 ** (-ratio_db / 10))).astype(np.float32)
