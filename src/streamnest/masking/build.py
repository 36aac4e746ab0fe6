"""From a config to a masking."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from streamnest.errors import UserError
from streamnest.masking.base import Masking, MaskingConfig, NoMasking
from streamnest.masking.blocks import RandomBlockMasking
from streamnest.masking.live_edge import LiveEdgeMasking
from streamnest.masking.multiscale import MultiscaleMasking


@dataclass
class BlocksConfig(MaskingConfig):
    """Schema of masking=random, causal and none; see `RandomBlockMasking` and `LiveEdgeMasking`."""

    kind: str = "random"
    mask_prob: float = 0.5
    block_size: int = 48
    allow_overlap: bool = False
    max_mask_ratio: float = 0.8
    left_context_size: int = -1
    live_edge_prob: float = 0.0
    live_edge_min_fraction: float = 0.5


@dataclass
class MultiscaleConfig(MaskingConfig):
    """Schema of masking=multiscale; see `MultiscaleMasking` and `LiveEdgeMasking`."""

    _target_: str = "streamnest.masking.build_multiscale"
    block_sizes: list[int] = field(default_factory=lambda: [8, 16, 32, 64])
    mask_share: float = 0.4
    mix: str = "utterance"
    max_mask_ratio: float = 0.8
    left_context_size: int = -1
    live_edge_prob: float = 0.0
    live_edge_min_fraction: float = 0.5


@dataclass
class ChunkConfig(MaskingConfig):
    """Schema of masking=chunk; see `ChunkMasking`."""

    _target_: str = "streamnest.masking.ChunkMasking"
    stack: int = 4
    mask_prob: float = 0.8
    min_unmasked: float = 0.5
    chunk_frames: int | None = None


def build_masking(kind: str, live_edge_prob: float, live_edge_min_fraction: float, **settings: Any) -> Masking:
    """The masking a config names.

    Raises:
        UserError: for an unknown kind.
    """
    if kind == "none":
        return NoMasking()
    if kind not in ("random", "causal"):
        raise UserError(f"masking.kind={kind!r} is unknown: choose one of random, causal, none")
    masking = RandomBlockMasking(**settings, causal=kind == "causal")
    return masking if kind == "random" else LiveEdgeMasking(masking, live_edge_prob, live_edge_min_fraction)


def build_multiscale(live_edge_prob: float, live_edge_min_fraction: float, **settings: Any) -> LiveEdgeMasking:
    """Blocks of several sizes, at the live edge for a share of the utterances."""
    return LiveEdgeMasking(MultiscaleMasking(**settings, causal=True), live_edge_prob, live_edge_min_fraction)
