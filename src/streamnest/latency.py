"""The latency contract: look-ahead and algorithmic latency computed from the modules, and leaks that violate it.

Encoder frame t covers the feature frames `[f t, f t + f)`, with f the subsampling factor. Look-ahead is audio after the
end of that span that can change output t. Algorithmic latency is the time from a sample's arrival to the first emission
of the encoder frame that covers it, excluding compute time.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch

from streamnest.encoder import FastConformer
from streamnest.errors import UserError
from streamnest.frontend import LogMel


@dataclass(frozen=True)
class LatencyReport:
    """Look-ahead and latency of an encoder in milliseconds; infinite if it sees the whole utterance.

    Attributes:
        frame_ms: stride of the encoder.
        chunk_ms: audio that becomes available together.
        left_ms: attention context before the chunk (chunked, buffered) or frame (regular).
        front_end_ms: look-ahead of the log-mel front end alone.
        subsampling_ms: look-ahead of the subsampling module past the end of its span; negative if it sees less.
        context_ms: look-ahead of attention and convolution over all layers, worst frame.
        lookahead_ms: look-ahead of all stages together, worst frame.
        lookahead_samples: the same in samples; None is unlimited.
        latency_mean_ms: algorithmic latency, mean over samples.
        latency_worst_ms: algorithmic latency, worst sample.
    """

    frame_ms: float
    chunk_ms: float
    left_ms: float
    front_end_ms: float
    subsampling_ms: float
    context_ms: float
    lookahead_ms: float
    lookahead_samples: int | None
    latency_mean_ms: float
    latency_worst_ms: float

    @property
    def streams(self) -> bool:
        """True if the encoder can emit before the utterance ends."""
        return math.isfinite(self.lookahead_ms)

    def as_dict(self) -> dict[str, float]:
        """Returns plain numbers for loggers."""
        return {f"latency/{k}": float("inf") if v is None else float(v) for k, v in asdict(self).items()}


def last_visible_frame(encoder: FastConformer, frame: int) -> int | None:
    """Returns the last frame after subsampling that output `frame` depends on; None is the end of the utterance."""
    reach = frame + encoder.context.delay
    if encoder.context.ahead:
        # A window sees the frames of earlier chunks and its own, whatever the number of layers.
        return encoder.context.last_visible(reach)
    for layer in reversed(encoder.layers):
        reach += layer.convolution.lookahead
        visible = encoder.context.last_visible(reach)
        if visible is None:
            return None
        reach = visible
    return reach


def receptive_field_end(
    encoder: FastConformer, frontend: LogMel, frames: int, causal_features: bool = True
) -> torch.Tensor | None:
    """Computes the end of each output's receptive field: of the audio that can change it, in target frames.

    Args:
        encoder: encoder with its current context.
        frontend: front end that computes its features.
        frames: number of outputs, counted by target frame (`FastConformer.target_shift`).
        causal_features: False if normalization uses future frames.

    Returns:
        `(frames,)` float64; 1.5 is the middle of the second target frame. None if outputs see the whole utterance.
    """
    chunk, subsampling = encoder.context.chunk, encoder.subsampling
    ends = []
    for phase in range(chunk or 1):
        last = last_visible_frame(encoder, phase + encoder.target_shift)
        if last is None or chunk is None or not causal_features:
            return None
        features = (last + 1) * subsampling.factor + subsampling.lookahead
        ends.append((features * frontend.hop + frontend.lookahead_samples) / (subsampling.factor * frontend.hop))
    time = torch.arange(frames)
    return torch.tensor(ends, dtype=torch.float64)[time % len(ends)] + time // len(ends) * len(ends)


def latency_report(encoder: FastConformer, frontend: LogMel, causal_features: bool = True) -> LatencyReport:
    """Computes the latency contract of an encoder with its front end.

    Args:
        encoder: encoder with its current context.
        frontend: front end that computes its features.
        causal_features: False if normalization uses future frames.
    """
    unit = encoder.frame_ms
    chunk = encoder.context.chunk
    left = encoder.context.left
    ahead = _visible_ahead(encoder, causal_features)
    limited = [a for a in ahead if a is not None]
    context_ms = max(limited) * unit if len(limited) == len(ahead) else math.inf
    subsampling_ms = encoder.subsampling.lookahead * frontend.hop_ms
    front_ms = 1000.0 * frontend.lookahead_samples / frontend.sample_rate
    total = context_ms + subsampling_ms + front_ms
    waits = emission_delays(encoder, frontend, causal_features)
    return LatencyReport(
        frame_ms=unit,
        chunk_ms=math.inf if chunk is None else chunk * unit,
        left_ms=math.inf if left is None else left * unit,
        front_end_ms=front_ms,
        subsampling_ms=subsampling_ms,
        context_ms=context_ms,
        lookahead_ms=total,
        lookahead_samples=round(total * frontend.sample_rate / 1000) if math.isfinite(total) else None,
        latency_mean_ms=sum(waits) / len(waits) - unit / 2,
        latency_worst_ms=max(waits),
    )


def emission_delays(encoder: FastConformer, frontend: LogMel, causal_features: bool = True) -> list[float]:
    """Computes milliseconds from the first sample of a frame's span to its emission, for each frame of a chunk.

    Later samples of the span wait correspondingly less. `latency_report` describes the arguments.
    """
    overhang = encoder.subsampling.lookahead * frontend.hop_ms + frontend.window_overhang_ms
    ahead = _visible_ahead(encoder, causal_features)
    return [math.inf if a is None else (1 + a + encoder.target_shift) * encoder.frame_ms + overhang for a in ahead]


def _visible_ahead(encoder: FastConformer, causal_features: bool) -> list[int | None]:
    """Counts the later encoder frames that each frame of a chunk sees; None is the rest of the utterance."""
    phases = [
        (t, last_visible_frame(encoder, t) if causal_features else None) for t in range(encoder.context.chunk or 1)
    ]
    return [None if last is None else last - t for t, last in phases]


def find_leaks(encoder: FastConformer, report: LatencyReport) -> list[str]:
    """Lists the reasons why a streaming preset sees more of the future than its context allows.

    Empty without a leak, as for an encoder with unlimited right context.
    """
    right = encoder.context.right
    if right is None:
        return []
    leaks = []
    if encoder.normalize == "utterance":
        leaks.append("encoder.normalize=utterance uses statistics of the whole utterance: choose global or online")
    convolutions = [layer.convolution for layer in encoder.layers]
    ahead = [convolution.lookahead for convolution in convolutions if convolution.lookahead]
    if ahead:
        leaks.append(
            f"encoder.conv_padding=symmetric sees {max(ahead)} frames ahead in each of "
            f"{len(ahead)} layers: choose causal"
        )
    if not all(convolution.norm_is_framewise for convolution in convolutions):
        leaks.append(
            "encoder.conv_norm=batch_norm computes statistics over time in training: choose layer_norm, or "
            "frozen_batch_norm to keep those of a checkpoint"
        )
    allowed = right * encoder.frame_ms
    if encoder.context.style == "regular" and report.context_ms > allowed:
        leaks.append(
            f"encoder.style=regular with right_context_ms={allowed:g} adds up over {len(encoder.layers)} layers to "
            f"{report.context_ms:g} ms: choose style=chunked"
        )
    return leaks


def require_no_leak(encoder: FastConformer, report: LatencyReport) -> list[str]:
    """Rejects a leaking streaming preset; returns the leaks that `encoder.allow_future_leak` permits.

    Raises:
        UserError: naming every leak and its remedy.
    """
    leaks = find_leaks(encoder, report)
    if leaks and not encoder.allow_future_leak:
        listed = "\n".join(f"  - {leak}" for leak in leaks)
        raise UserError(
            f"this streaming preset would see the future:\n{listed}\n"
            "(or set encoder.allow_future_leak=true to train it anyway)"
        )
    return leaks
