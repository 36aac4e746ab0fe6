"""Checkpoints for and from other toolkits."""
