"""The streaming FastConformer. Read in this order: encoder, contextual, masks, layer, attention, convolution.

`windows` makes limited attention linear in the length, `copies` is the layout of re-encoded right context, and
`schedule` has contexts that change from chunk to chunk; the rest can be followed without them.
"""

from streamnest.encoder.config import EncoderConfig
from streamnest.encoder.encoder import FastConformer
from streamnest.encoder.state import EncoderState

__all__ = ["EncoderConfig", "EncoderState", "FastConformer"]
