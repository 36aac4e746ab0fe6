"""Conversations: simulated from single speakers, and recorded ones."""
