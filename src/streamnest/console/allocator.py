"""Settings of the memory allocator of the C library for training."""

from __future__ import annotations

import ctypes
import os

# Parameters of mallopt(3) of glibc, and their values.
_SETTINGS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1), "M_TOP_PAD": (-2, 64 << 20)}


def keep_freed_memory() -> None:
    """Makes the process reuse the memory of freed tensors instead of returning it to the system.

    By default glibc returns each tensor over 32 MB when it is freed. The system then clears the pages of the next one,
    which takes a quarter of the time of a forward on ten minutes of audio. Does nothing without glibc, or if a variable
    such as `MALLOC_ARENA_MAX` or `LD_PRELOAD` shows that the user has chosen the settings.
    """
    if any(name.startswith("MALLOC_") or name == "LD_PRELOAD" for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for parameter, value in _SETTINGS.values():
        mallopt(parameter, value)
