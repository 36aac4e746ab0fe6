"""Text of numbers and settings for panels and tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from streamnest.encoder import FastConformer
from streamnest.encoder.convolution import ConvolutionModule
from streamnest.latency import LatencyReport, find_leaks
from streamnest.masking import ChunkMasking, LiveEdgeMasking, Masking, MultiscaleMasking, RandomBlockMasking


def milliseconds(value: float) -> str:
    """Formats milliseconds, such as 42.4 ms; infinity is the whole utterance."""
    return f"{value:.1f} ms" if math.isfinite(value) else "whole utterance"


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Formats a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def count(number: float) -> str:
    """Formats a count, such as 13.5M; in thousands below a million."""
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e3:.1f}k"


def speed(factor: float) -> str:
    """Formats a speed in hours of audio per hour of computing, such as `5.1x real time`."""
    return f"{factor:.0f}x real time" if factor >= 10 else f"{factor:.1f}x real time"


def duration(seconds: float) -> str:
    """Formats a duration: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def change(first: Mapping[str, float], last: Mapping[str, float], name: str, form: str = ".1%") -> str:
    """Formats a metric of first and last validation, as `12.5% -> 4.2%`; only the last if the first has none."""
    now = f"{last[name]:{form}}"
    return f"{first[name]:{form}} -> {now}" if name in first else now


def causality(encoder: FastConformer, report: LatencyReport) -> str:
    """Describes how far the layers of an encoder see; `require_no_leak` and `require_causal` have checked it."""
    leaks = find_leaks(encoder, report)
    if leaks:
        return "violated, layers see more of the future than the preset allows: " + "; ".join(leaks)
    if not report.streams:
        ways = ["attention to the end of the utterance"] if encoder.context.right is None else []
        ways += ["symmetric convolutions"] if _symmetric(encoder) else []
        ways += ["normalization over the utterance"] if encoder.normalize == "utterance" else []
        return "none: " + ", ".join(ways)
    if encoder.context.delay:
        return "no layer sees the future; each output is read after its look-ahead (checked)"
    if encoder.context.ahead:
        ahead = encoder.context.ahead * encoder.frame_ms
        return f"no layer sees more than {ahead:g} ms past the current {report.chunk_ms:g} ms chunk (checked)"
    if report.context_ms > 0:
        return f"no layer sees past the current {report.chunk_ms:g} ms chunk (checked)"
    return "no layer sees the future; only the analysis window looks ahead (checked)"


def masking_in_words(masking: Masking, hop_ms: float) -> str:
    """Describes a masking: kind, size of mask spans, and share of masked frames."""
    if isinstance(masking, LiveEdgeMasking):
        edges = f"; {masking.live_edge_prob:.0%} of utterances at the live edge" if masking.live_edge_prob else ""
        return masking_in_words(masking.masking, hop_ms) + edges
    if isinstance(masking, MultiscaleMasking):
        low, high = min(masking.block_sizes) * hop_ms, max(masking.block_sizes) * hop_ms
        return f"spans of {low:.0f} to {high:.0f} ms over about {masking.mask_share:.0%} of frames"
    if isinstance(masking, ChunkMasking):
        return f"the ends of {masking.mask_prob:.0%} of chunks; {masking.min_unmasked:.0%} of each chunk stays unmasked"
    if not isinstance(masking, RandomBlockMasking):
        return "nothing is masked"
    share = masking.mask_prob
    if masking.allow_overlap:
        share = 1 - (1 - masking.mask_prob) ** masking.block_size
    window = f", in the last {masking.left_context_size * hop_ms:.0f} ms" if masking.left_context_size > 0 else ""
    kind = "causal" if masking.causal else "random"
    return f"{kind} spans of {masking.block_size * hop_ms:.0f} ms over about {share:.0%} of frames{window}"


def _symmetric(encoder: FastConformer) -> bool:
    return any(isinstance(part, ConvolutionModule) and part.lookahead for part in encoder.modules())
