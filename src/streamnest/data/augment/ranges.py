"""Ranges that augmentation draws from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamnest.errors import UserError


def draw_uniform(rng: np.random.Generator, bounds: Sequence[float]) -> float:
    """A number between two bounds."""
    return float(rng.uniform(bounds[0], bounds[1]))


def draw_integer(rng: np.random.Generator, bounds: Sequence[int]) -> int:
    """One of the integers between two bounds, which may be drawn themselves."""
    return int(rng.integers(bounds[0], bounds[1] + 1))


def check_range(name: str, bounds: Sequence[float], least: float = -np.inf, most: float = np.inf) -> None:
    """Refuses bounds of `augment.<name>` that are reversed or beyond `least` and `most`.

    Raises:
        UserError: for those.
    """
    if len(bounds) != 2 or not least <= bounds[0] <= bounds[1] <= most:
        raise UserError(f"augment.{name}={list(bounds)}: need {least} <= low <= high <= {most}")


def check_share(name: str, share: float) -> None:
    """Refuses a share of utterances that is not in [0, 1].

    Raises:
        UserError: for that.
    """
    if not 0 <= share <= 1:
        raise UserError(f"augment.{name}={share}: need a share between 0 and 1")
