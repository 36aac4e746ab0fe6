"""Arguments and help page of each command, without the imports that its work needs."""

from __future__ import annotations

from argparse import _ActionsContainer


def add_max_left_ms(parser: _ActionsContainer) -> None:
    """Adds the limit of an unlimited left context; None stands for `STREAM_LEFT_MS`."""
    parser.add_argument(
        "--max-left-ms",
        type=float,
        help="limit of an unlimited left context in streams and recordings over two minutes (default: 20000)",
    )
