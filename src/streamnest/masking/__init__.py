"""What is hidden from the encoder, vectorised over the batch.

Every draw derives from a key per row, so a mask depends on the seed, the step and the cut, and neither on the device
nor on the neighbours in the batch.
"""

from streamnest.masking.base import Masking, MaskingConfig, NoMasking
from streamnest.masking.blocks import RandomBlockMasking
from streamnest.masking.build import BlocksConfig, ChunkConfig, MultiscaleConfig, build_masking, build_multiscale
from streamnest.masking.chunks import ChunkMasking
from streamnest.masking.live_edge import LiveEdgeMasking
from streamnest.masking.multiscale import MultiscaleMasking

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
