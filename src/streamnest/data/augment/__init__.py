"""Augmentation of audio: speed, rooms, noise and other speakers."""
