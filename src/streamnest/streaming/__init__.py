"""Checkpoints run live: sessions of streams, and the proof that they equal the offline forward."""

from streamnest.streaming.session import StreamingSession
from streamnest.streaming.step import StreamState

__all__ = ["StreamState", "StreamingSession"]
