"""Ranges of what audio files hold."""

LOWEST_RATE, HIGHEST_RATE = 1000, 768_000
"""Sampling rates in Hz that are read."""

LARGEST_SAMPLE = 1e9
"""Far beyond full scale, also of 16-bit numbers that are stored as floats; power in float32 overflows from 1e16 on."""
