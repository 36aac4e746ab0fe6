"""Self-supervised pretraining of streaming speech encoders, with their look-ahead proved."""

__version__ = "0.1.0"
