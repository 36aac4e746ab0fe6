"""The streaming FastConformer. Read in this order: encoder, block, attention, convolution, subsampling."""

from streamnest.encoder.encoder import EncoderConfig, EncoderState, FastConformer

__all__ = ["EncoderConfig", "EncoderState", "FastConformer"]
