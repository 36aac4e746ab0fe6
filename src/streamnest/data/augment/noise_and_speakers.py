"""Noise and other speakers in the encoder's input; the targets are computed from the clean audio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamnest.data.audio import Samples
from streamnest.data.augment.noise import NoiseBank, excerpt
from streamnest.data.augment.ranges import check_range, check_share, sample_integer, sample_uniform
from streamnest.data.config import AugmentConfig
from streamnest.randomness import numpy_generator

_STREAM = 0xA06
Span = tuple[int, int]


class NoiseAndSpeakerMixing:
    """Denoising augmentation of NEST (Huang et al. 2024): adds noise or speech of other rows to a part of each row.

    The ratio is 10 log10(E_row / E_mix) dB with both energies averaged over the whole row, so that at a mix rate of 0.5
    the covered half is 3 dB noisier than the ratio. The sum is not clipped or normalized: it may exceed [-1, 1].

    All random choices for a row depend only on (seed, step, cut id); added speech also depends on the other rows.
    A row stays clean if it is silent, or if there is neither noise nor another speaker in the batch.

    Args:
        config: shares and ranges; `reverb` and `speed` are not used here.
        noise: source of noise; may be set later.

    Raises:
        UserError: for ranges that are reversed or out of bounds.
    """

    def __init__(self, config: AugmentConfig, noise: NoiseBank | None = None) -> None:
        for key in ("prob", "noise_ratio"):
            check_share(f"augment.{key}", getattr(config, key))
        for key in ("noise_db", "speech_db"):
            check_range(f"augment.{key}", getattr(config, key))
        check_range("augment.mix_rate", config.mix_rate, 0, 1)
        check_range("augment.segments", config.segments, 1)
        check_range("augment.speakers", config.speakers, 1)
        self.config, self.noise = config, noise

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
            clean: `(B, N)`; not modified.
            lengths: `(B,)` valid samples.
            ids: cut ids.
            step: step of the batch.
            speakers: speaker of each row, None if unknown; a row is not mixed with speech of its own speaker.

        Returns:
            `(B, N)`, zero beyond each row's length; `clean` itself if no row is mixed.
        """
        names = speakers or [None] * len(ids)
        rows = [audio[:length] for audio, length in zip(clean.numpy(), lengths.tolist())]
        noisy = None
        for index, cut_id in enumerate(ids):
            rng = numpy_generator(self.config.seed, step, cut_id, _STREAM)
            mix = self._mix(rng, rows, index, names)
            if mix is not None:
                noisy = clean.clone() if noisy is None else noisy
                noisy[index, : len(mix)] += torch.from_numpy(mix)
        return clean if noisy is None else noisy

    def _mix(
        self, rng: np.random.Generator, rows: Sequence[Samples], index: int, names: Sequence[str | None]
    ) -> Samples | None:
        """Returns the signal to add to a row, `(L,)`, or None."""
        config = self.config
        if rng.random() >= config.prob:
            return None
        others = [
            other
            for other, name in enumerate(names)
            if other != index and (name is None or name != names[index]) and len(rows[other])
        ]
        wants_noise = rng.random() < config.noise_ratio
        use_noise = self.noise is not None and (wants_noise or not others)
        if not use_noise and not others:
            return None
        ratio_db = sample_uniform(rng, config.noise_db if use_noise else config.speech_db)
        rate, count = sample_uniform(rng, config.mix_rate), sample_integer(rng, config.segments)
        spans = place_segments(rng, len(rows[index]), rate, count)
        mix = np.zeros(len(rows[index]), np.float32)
        if use_noise:
            self._add_noise(rng, mix, spans)
        else:
            chosen = rng.permutation(others)[: sample_integer(rng, config.speakers)]
            for start, stop in spans:
                mix[start:stop] = excerpt(rng, rows[rng.choice(chosen)], stop - start)
        return scale_to_ratio(rows[index], mix, ratio_db)

    def _add_noise(self, rng: np.random.Generator, mix: Samples, spans: Sequence[Span]) -> None:
        """Fills all segments from one excerpt of noise."""
        noise = self.noise.sample(rng, sum(stop - start for start, stop in spans)) if self.noise else None
        if noise is not None:
            pieces = np.split(noise, np.cumsum([stop - start for start, stop in spans])[:-1])
            for (start, stop), piece in zip(spans, pieces):
                mix[start:stop] = piece


def place_segments(rng: np.random.Generator, length: int, rate: float, count: int) -> list[Span]:
    """Returns spans of random lengths that cover `rate` of `length` samples, in order, with random gaps.

    Each span holds at least one sample, so that there are fewer than `count` if there are fewer samples to cover.
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
    """Scales `mix` to make the energy of `speech` `ratio_db` higher than its own; None if either is silent."""
    # A dot product would use the threads of BLAS, which are busy with the model.
    energies: NDArray[np.float64] = np.array([np.square(x, dtype=np.float64).sum() for x in (speech, mix)])
    if not (energies > 0).all() or not np.isfinite(energies).all():
        return None
    return (mix * np.sqrt(energies[0] / energies[1] * 10 ** (-ratio_db / 10))).astype(np.float32)
