"""Schemas of the config groups, composing configs, and what files may name."""
