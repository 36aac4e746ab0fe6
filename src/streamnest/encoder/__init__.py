"""The streaming FastConformer. Read in this order: encoder, contextual, masks, layer, attention, convolution."""

from streamnest.encoder.config import EncoderConfig
from streamnest.encoder.encoder import FastConformer
from streamnest.encoder.state import EncoderState

__all__ = ["EncoderConfig", "EncoderState", "FastConformer"]
