"""Types of options, which refuse a value that cannot be used before a command begins its work."""

from __future__ import annotations

import math
import os
from argparse import ArgumentTypeError
from pathlib import Path

_PLOTS = (".png", ".svg", ".pdf")
# Larger whole numbers do not fit into arrays of 32 bits.
_MOST = 2**31 - 1


class Number:
    """Type of an option that is a number in a range.

    Args:
        kind: int or float.
        low: smallest number; None for any.
        high: largest number; None for any finite one, or the largest of 32 bits.
        above: exclude the smallest number.
        below: exclude the largest number.
    """

    def __init__(
        self,
        kind: type[int] | type[float],
        low: float | None = None,
        high: float | None = None,
        above: bool = False,
        below: bool = False,
    ) -> None:
        self.kind, self.low, self.high, self.above, self.below = kind, low, high, above, below
        self._name = "a whole number" if kind is int else "a number"

    def __call__(self, text: str) -> float:
        """Returns the number.

        Raises:
            ArgumentTypeError: with the legal range.
        """
        try:
            value: float = self.kind(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is not {self._name}: give {self}") from None
        if not self._holds(value):
            raise ArgumentTypeError(f"{text} is out of range: give {self}")
        return value

    def _holds(self, value: float) -> bool:
        low = self.low is None or (value > self.low if self.above else value >= self.low)
        if self.high is not None:
            return low and (value < self.high if self.below else value <= self.high)
        return low and (abs(value) <= _MOST if self.kind is int else math.isfinite(value))

    def __str__(self) -> str:
        if self.low is None:
            return self._name if self.kind is int else "a finite number"
        low = "above" if self.above else "of at least" if self.high is None else "from"
        to = "and below" if self.below else "and at most" if self.above else "to"
        high = "" if self.high is None else f" {to} {self.high:.10g}"
        return f"{self._name} {low} {self.low:g}{high}"


WHOLE, FINITE = Number(int), Number(float)
COUNT, NATURAL, PAIR = Number(int, 1), Number(int, 0), Number(int, 2)
POSITIVE, NOT_NEGATIVE, SHARE = Number(float, 0, above=True), Number(float, 0), Number(float, 0, 1)
THRESHOLD = Number(float, 0, 1, above=True, below=True)
# An hour of audio in one step is more than a machine holds.
CHUNK_S = Number(float, 0, 3600, above=True)
# More threads or processes exhaust a machine.
THREADS, SEED = Number(int, 1, 1024), Number(int, 0, 2**32 - 1)


def output_path(text: str) -> Path:
    """Returns the path of a file or folder that can be written; the folder that contains it may be missing.

    Raises:
        ArgumentTypeError: for a path at which nothing can be created.
    """
    path = Path(text)
    output_folder(str(path.parent), text)
    return path


def output_file(text: str) -> Path:
    """Returns the path of a file that can be written; the folder may be missing.

    Raises:
        ArgumentTypeError: for a folder, and as `output_path`.
    """
    path = output_path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"{text} is a folder: give the name of a file")
    return path


def output_plot(text: str) -> Path:
    """Returns the path of a plot that can be written.

    Raises:
        ArgumentTypeError: as `output_file`, and for names that do not end in .png, .svg or .pdf.
    """
    if not text.endswith(_PLOTS):
        raise ArgumentTypeError(f"{text} must end in {', '.join(_PLOTS[:-1])} or {_PLOTS[-1]}")
    return output_file(text)


def output_folder(text: str, shown: str | None = None) -> Path:
    """Returns the path of a folder that exists or can be created; `shown` replaces it in messages.

    Raises:
        ArgumentTypeError: if it, or the first of its parents that exists, is a file or cannot be written.
    """
    path = Path(text)
    try:
        nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    except OSError as error:
        raise ArgumentTypeError(f"{shown or text} cannot be written: {error.strerror}") from None
    if not nearest.is_dir():
        raise ArgumentTypeError(f"{shown or text} cannot be written: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ArgumentTypeError(f"{shown or text} cannot be written: {nearest} is read-only for this user")
    return path
