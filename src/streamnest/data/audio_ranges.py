"""Limits of sampling rates and sample values."""

LOWEST_RATE, HIGHEST_RATE = 1000, 768_000
"""Range of supported sampling rates in Hz."""

LARGEST_SAMPLE = 1e9
"""Maximum absolute sample: far beyond 16-bit integers stored as floats; float32 power overflows from 1e16."""
