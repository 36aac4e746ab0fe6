"""Builds maskings from their configs."""

from __future__ import annotations

from typing import Any

from streamnest.errors import UserError
from streamnest.masking.base import Masking, NoMasking
from streamnest.masking.blocks import RandomBlockMasking
from streamnest.masking.live_edge import LiveEdgeMasking
from streamnest.masking.multiscale import MultiscaleMasking


def build_masking(kind: str, live_edge_prob: float, live_edge_min_fraction: float, **settings: Any) -> Masking:
    """Builds the masking that a config names.

    Raises:
        UserError: if the kind is unknown.
    """
    if kind == "none":
        return NoMasking()
    if kind not in ("random", "causal"):
        raise UserError(f"masking.kind={kind!r} is unknown: choose one of random, causal, none")
    masking = RandomBlockMasking(**settings, causal=kind == "causal")
    return masking if kind == "random" else LiveEdgeMasking(masking, live_edge_prob, live_edge_min_fraction)


def build_multiscale(live_edge_prob: float, live_edge_min_fraction: float, **settings: Any) -> LiveEdgeMasking:
    """Builds a causal masking with mask spans of several sizes."""
    return LiveEdgeMasking(MultiscaleMasking(**settings, causal=True), live_edge_prob, live_edge_min_fraction)
