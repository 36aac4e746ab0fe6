"""Masking of the encoder's input, vectorized over the batch.

All random numbers derive from one key per row, so a mask depends on the seed, the step and the cut, but not on the
device or the other rows of the batch.
"""

from streamnest.masking.base import Masking, MaskingConfig, NoMasking
from streamnest.masking.blocks import BlocksConfig, RandomBlockMasking
from streamnest.masking.build import build_masking, build_multiscale
from streamnest.masking.chunks import ChunkConfig, ChunkMasking
from streamnest.masking.live_edge import LiveEdgeMasking
from streamnest.masking.multiscale import MultiscaleConfig, MultiscaleMasking

__all__ = [
    "BlocksConfig",
    "ChunkConfig",
    "ChunkMasking",
    "LiveEdgeMasking",
    "Masking",
    "MaskingConfig",
    "MultiscaleConfig",
    "MultiscaleMasking",
    "NoMasking",
    "RandomBlockMasking",
    "build_masking",
    "build_multiscale",
]
