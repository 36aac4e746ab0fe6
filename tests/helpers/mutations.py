"""Random damage of files: changed or missing bytes, replaced or removed values."""

from __future__ import annotations

import copy
import random
from typing import Any

ODD = (None, True, 0, -1, 1.5, 10**30, 1e308, float("nan"), float("inf"), "", "x", "\ud800", "-1", [], [[]], {}, [None])


def flipped(rng: random.Random, data: bytes) -> bytes:
    """Returns a copy in which a few bytes are changed; every third copy is truncated."""
    damaged = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged[: rng.randrange(len(damaged))] if rng.randrange(3) == 0 else damaged)


def mutated(rng: random.Random, value: Any) -> Any:
    """Returns a copy of a JSON value in which one part is replaced, removed, duplicated or renamed."""
    value = copy.deepcopy(value)
    container, key = rng.choice(list(_places(value)))
    kind = rng.randrange(4)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[f"{key}_"] = container.pop(key)
    elif kind == 2:
        container[key] = [container[key], container[key]]
    else:
        container[key] = copy.deepcopy(rng.choice(ODD))
    return value


def _places(value: Any) -> Any:
    """Yields every container in a value with each of its keys."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
