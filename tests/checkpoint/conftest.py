"""Fixtures of this folder."""

from short_training import train

__all__ = ["train"]
