"""Adaptive look-ahead: a stream chooses the context of each chunk within a budget of average latency."""

from streamnest.streaming.adaptive.session import AdaptiveSession, AdaptiveSettings

__all__ = ["AdaptiveSession", "AdaptiveSettings"]
