"""Random numbers from ranges that configs give, and checks of these ranges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamnest.errors import UserError


def sample_uniform(rng: np.random.Generator, bounds: Sequence[float]) -> float:
    """Samples a number between two bounds."""
    return float(rng.uniform(bounds[0], bounds[1]))


def sample_integer(rng: np.random.Generator, bounds: Sequence[int]) -> int:
    """Samples an integer between two bounds, both included."""
    return int(rng.integers(bounds[0], bounds[1] + 1))


def check_range(key: str, bounds: Sequence[float], least: float = -np.inf, most: float = np.inf) -> None:
    """Checks the two bounds of a config value.

    Raises:
        UserError: if the bounds are reversed or exceed `least` and `most`.
    """
    if len(bounds) != 2 or not least <= bounds[0] <= bounds[1] <= most:
        raise UserError(f"{key}={list(bounds)}: need two values with {least} <= low <= high <= {most}")


def check_share(key: str, share: float) -> None:
    """Checks a config value that is a share.

    Raises:
        UserError: if the share is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise UserError(f"{key}={share}: need a share between 0 and 1")
