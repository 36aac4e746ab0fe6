"""The fixture that trains a config for some steps."""

from short_training import train

__all__ = ["train"]
