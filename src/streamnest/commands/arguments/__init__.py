"""Arguments and help page of each command, without the imports that its work needs."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError, _ActionsContainer


def add_max_left_ms(parser: _ActionsContainer) -> None:
    """Adds the limit of an unlimited left context; None stands for `STREAM_LEFT_MS`."""
    parser.add_argument(
        "--max-left-ms",
        type=float,
        help="limit of an unlimited left context in streams and recordings over two minutes (default: 20000)",
    )


def add_adaptive(parser: _ActionsContainer, rule: str = "entropy") -> None:
    """Adds the options of adaptive look-ahead; `rule` is the default rule."""
    parser.add_argument(
        "--adaptive",
        type=_milliseconds,
        metavar="LATENCY",
        help="choose the context of each chunk (encoder=dynamic) within this average latency, such as 120ms",
    )
    parser.add_argument(
        "--adaptive-rule",
        default=rule,
        metavar="RULE",
        help=f"entropy, preview, energy, load, random or fixed:NAME (default: {rule})",
    )
    parser.add_argument(
        "--adaptive-contexts",
        nargs="+",
        metavar="NAME",
        help="contexts to choose from (default: all of limited look-ahead)",
    )


def _milliseconds(text: str) -> float:
    """Parses a latency such as 120ms, 0.12s or 120."""
    unit = next((unit for unit in ("ms", "s") if text.endswith(unit)), "")
    try:
        value = float(text.removesuffix(unit)) * (1000 if unit == "s" else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"{text!r} is not a latency above 0, such as 120ms")
    return value
