"""Streaming inference, its certificate, and export to ONNX."""

from streamnest.streaming.session import StreamingSession
from streamnest.streaming.step import StreamState

__all__ = ["StreamState", "StreamingSession"]
