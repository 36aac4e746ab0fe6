"""Subsampling: log-mel frames to encoder frames by strided depthwise-separable convolutions.

The layout inside is channels-last, `(B, T, F, C)`, so that pointwise convolutions are plain matrix products. The first
convolution, which has one input channel, is a product with nine taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from streamnest.encoder.convolution import depthwise_precision
from streamnest.errors import UserError

SCHEMES = ("aligned", "shifted")
# Elements of the first activation that a CPU processes at a time: staying in cache is a third faster.
_CPU_ELEMENTS = 1 << 22


class _Padding(NamedTuple):
    past: int
    future: int
    low: int
    high: int


class _Span(NamedTuple):
    """Position of frames in their streams."""

    lengths: Tensor
    position: Tensor


class Subsampling(nn.Module):
    """Depthwise subsampling of FastConformer (Rekesh et al. 2023, section 3), `(B, num_mels, T)` -> `(B, T', d)`.

    Kernel 3, stride 2 in time and frequency, `log2(factor)` stages. Stride: `factor` feature frames.

    `aligned` pads one past frame per stage: output t sees feature frames up to `factor * t + factor - 1`, the end
    of its target frame. Weights and function equal those of symmetric padding, except after the last frame.
    `shifted` pads two past frames and one future frame, also in frequency: output t sees feature frames up to
    `factor * t`. It exists to run checkpoints trained that way and has one more output, the last of which is not final.

    Args:
        num_mels: number of mel bands.
        factor: subsampling factor 2, 4, 8, ...
        channels: channels of the convolutions.
        d_model: output width.
        scheme: padding scheme, "aligned" or "shifted".

    Raises:
        UserError: if the factor is not a power of two, or the scheme is unknown.
    """

    def __init__(self, num_mels: int, factor: int, channels: int, d_model: int, scheme: str = "aligned") -> None:
        super().__init__()
        if factor < 2 or factor & (factor - 1):
            raise UserError(f"encoder.subsampling_factor={factor} is not supported: use a power of two such as 4 or 8")
        if scheme not in SCHEMES:
            raise UserError(f"encoder.subsampling_padding={scheme!r} is unknown: choose one of {', '.join(SCHEMES)}")
        self.factor, self.scheme, self.num_mels = factor, scheme, num_mels
        self.padding = _Padding(1, 0, 1, 1) if scheme == "aligned" else _Padding(2, 1, 2, 1)
        stages = factor.bit_length() - 1
        bands = num_mels
        for _ in range(stages):
            bands = (bands + self.padding.low + self.padding.high - 3) // 2 + 1
        self.first = nn.Conv2d(1, channels, 3, stride=2)
        self.depthwise: Sequence[nn.Conv2d] = nn.ModuleList(  # type: ignore[assignment]
            nn.Conv2d(channels, channels, 3, stride=2, groups=channels) for _ in range(1, stages)
        )
        self.pointwise = nn.ModuleList(nn.Linear(channels, channels) for _ in range(1, stages))
        self.out = nn.Linear(bands * channels, d_model)

    @property
    def lookahead(self) -> int:
        """Feature frames that an output sees past the end of its target frame; negative if it sees less than that."""
        return 0 if self.scheme == "aligned" else -(self.factor - 1)

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Returns encoder frames for feature frames; with `aligned` an incomplete last target frame counts."""
        for _ in range(len(self.depthwise) + 1):
            lengths = self._halve(lengths)
        return lengths

    def init_state(self, batch: int) -> tuple[Tensor, ...]:
        """Creates the past of each stage at the start of a stream: zeros `(B, past, bands, channels)`."""
        weight, bands, states = self.out.weight, self.num_mels, []
        for stage in range(len(self.depthwise) + 1):
            channels = 1 if stage == 0 else self.first.out_channels
            states.append(weight.new_zeros(batch, self.padding.past, bands, channels))
            bands = (bands + self.padding.low + self.padding.high - 3) // 2 + 1
        return tuple(states)

    def forward(
        self,
        features: Tensor,
        lengths: Tensor | None,
        state: tuple[Tensor, ...] | None = None,
        position: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Subsamples features.

        Args:
            features: `(B, num_mels, T)`, zero past each row's length.
            lengths: `(B,)` feature frames, of the whole stream if there is a state; None if all frames are valid.
            state: state from `init_state` or the previous call. Without a state, features are whole utterances and
                padding completes the last target frame. With a state, outputs are final, and all rows must have
                consumed the same number of frames modulo `factor`.
            position: `(B,)` feature frames before these; required with a state. Negative at the start of a stream whose
                first features only pad a call of fixed size: they are ignored.

        Returns:
            `(B, T', d_model)`, with T' as in `num_frames`, and the next state.
        """
        rows = self._rows_at_once(features)
        if state is None and lengths is not None and rows < len(features):
            return self._in_parts(features, lengths, rows)
        past: Sequence[Tensor | None] = state or (None,) * (len(self.depthwise) + 1)
        span = None
        if lengths is not None:
            span = self._halved(_Span(lengths, torch.zeros_like(lengths) if position is None else position))
        x, *states = self._front(features.transpose(1, 2).unsqueeze(-1), span, past)
        for index, pointwise in enumerate(self.pointwise):
            if index:
                x, kept = self._strided(self.depthwise[index], x, past[index + 1])
                states.append(kept)
            span = self._halved(span)
            x = F.relu(_zero_outside(pointwise(x), span), inplace=True)
        return self.out(x.flatten(2)), tuple(states)

    def _in_parts(self, features: Tensor, lengths: Tensor, rows: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        parts = [self(x, n) for x, n in zip(features.split(rows), lengths.split(rows), strict=True)]
        outputs, states = zip(*parts, strict=True)
        return torch.cat(outputs), tuple(torch.cat(stage) for stage in zip(*states, strict=True))

    def _rows_at_once(self, features: Tensor) -> int:
        row = features[0].numel() // 4 * self.first.out_channels
        return len(features) if features.device.type != "cpu" else max(1, _CPU_ELEMENTS // max(1, row))

    def _front(self, x: Tensor, span: _Span | None, past: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        """Runs the first stage and the convolution of the second; returns output and states.

        The activation between them is the largest of the network and cheap to compute (nine taps), so training
        recomputes it in the backward pass instead of storing it.
        """
        if past[0] is None and self.training and torch.is_grad_enabled():
            inputs = (x, span, past)
            return tuple(checkpoint(self._compute_front, *inputs, use_reentrant=False, preserve_rng_state=False))
        return self._compute_front(x, span, past)

    def _compute_front(self, x: Tensor, span: _Span | None, past: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        x, first = self._first(x, span, past[0])
        if not self.depthwise:
            return x, first
        x, second = self._strided(self.depthwise[0], x, past[1])
        return x, first, second

    def _strided(self, depthwise: nn.Conv2d, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        # Through a view, so that the gradient has the strides of the weight, as DDP requires.
        weight, time, bands = depthwise.weight.squeeze(1).unsqueeze(1), 0, 0
        if self.scheme == "aligned":
            # The convolution's own padding avoids a copy, without a past even of the largest activation. On the right
            # it only completes an incomplete last target frame, as `_pad` does.
            x, kept = (x, x[:, -self.padding.past :]) if past is None else self._behind(past, x)
            time, bands = int(past is None), self.padding.low
        else:
            x, kept = self._pad(x, past)
        with depthwise_precision(x) as inputs:
            y = F.conv2d(inputs.permute(0, 3, 1, 2), weight, depthwise.bias, 2, (time, bands), 1, depthwise.groups)
        return y.permute(0, 2, 3, 1), kept

    def _first(self, x: Tensor, span: _Span | None, past: Tensor | None) -> tuple[Tensor, Tensor]:
        # Nine taps and a one for the bias. Frames past the end are zeroed here, where they are small, and not in the
        # largest activation of the network.
        padded, kept = self._pad(x, past)
        patches = padded.squeeze(-1).unfold(1, 3, 2).unfold(2, 3, 2).flatten(3)
        patches = _zero_outside(torch.cat([patches, torch.ones_like(patches[..., :1])], dim=-1), span)
        weight = torch.cat([self.first.weight.flatten(1).t(), self.first.bias[None]])  # type: ignore[index]
        # `patches @ weight`, not `linear`: its gradient is (10 x N) @ (N x C), nine times faster than the transpose.
        return F.relu(patches @ weight, inplace=True), kept

    def _pad(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Prepends the past, pads frequency and future; returns the padded input and the next call's past."""
        before = x.new_zeros(len(x), self.padding.past, *x.shape[2:]) if past is None else past
        # An odd number of frames leaves the last output incomplete: one zero frame completes it (aligned).
        future = 0 if past is not None else self.padding.future or x.shape[1] % 2
        x, kept = self._behind(before, x)
        return F.pad(x, (0, 0, self.padding.low, self.padding.high, 0, future)), kept

    @staticmethod
    def _behind(past: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Concatenates past and x; also returns the frames that the next window starts with."""
        x = torch.cat([past.to(x.dtype), x], dim=1)
        return x, x[:, 2 * max(0, (x.shape[1] - 1) // 2) :]

    def _halved(self, span: _Span | None) -> _Span | None:
        """Returns the span of the outputs of a stage."""
        return span and _Span(self._halve(span.lengths), self._outputs(span.position))

    def _halve(self, lengths: Tensor) -> Tensor:
        """Returns the outputs of a stage for whole utterances."""
        return (lengths + 1) // 2 if self.scheme == "aligned" else lengths // 2 + 1

    def _outputs(self, inputs: Tensor) -> Tensor:
        """Returns the final outputs of a stage after some inputs of a stream."""
        return (inputs + self.padding.past - 1) // 2


def _zero_outside(x: Tensor, span: _Span | None) -> Tensor:
    """Zeroes frames of `(B, T, F, C)` before the start or past the length of a stream."""
    if span is None:
        return x
    time = span.position[:, None] + torch.arange(x.shape[1], device=x.device)
    return x * ((time >= 0) & (time < span.lengths[:, None]))[:, :, None, None]
