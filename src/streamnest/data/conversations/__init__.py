"""Conversations: simulated from utterances of single speakers, and recorded ones."""
