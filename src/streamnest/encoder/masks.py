"""Attention masks and valid frames of the layers, for whole utterances and for steps of streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from streamnest.encoder.context import Context
from streamnest.encoder.copies import Copies, copy_masks
from streamnest.encoder.windows import Windows


class LayerMasks(NamedTuple):
    """Attention mask and valid frames `(B, T, 1)` of a layer; None if nothing is masked.

    The mask is `(B, 1, Tq, Tk)`, or `(B, N, 1, group, keys)` with `Windows`; with `Copies`, see `copy_masks`.
    """

    mask: Tensor | None
    valid: Tensor | None


def utterance_masks(
    context: Context, frames: int, lengths: Tensor, windows: Windows | None, copies: Copies | None
) -> LayerMasks:
    """Computes the masks of whole utterances, which all layers share.

    Args:
        context: context of the attention.
        frames: frames of the longest utterance.
        lengths: frames of each utterance, `(B,)`.
        windows: division of the queries into groups.
        copies: layout of the frames if right context is encoded again.
    """
    if copies:
        return LayerMasks(*copy_masks(copies, lengths.new_zeros(1), 0, context.left, lengths))
    time = torch.arange(frames, device=lengths.device)[None]
    return _context_masks(context, time, time, lengths, windows)


def step_masks(
    context: Context,
    starts: Sequence[Tensor],
    cached: int,
    frames: int,
    lengths: Tensor,
    windows: Windows | None,
    copies: Copies | None,
) -> list[LayerMasks]:
    """Computes the masks of a streaming step for each start.

    Args:
        context: context of the attention, with a limited left context.
        starts: numbers `(B,)` of the first new frame of each layer, or of all layers.
        cached: frames before it whose keys are cached.
        frames: number of new frames.
        lengths: frames of each stream, `(B,)`.
        windows: division of the queries into groups.
        copies: layout of the frames if right context is encoded again.
    """
    if copies:
        return [LayerMasks(*copy_masks(copies, start, cached, context.left, lengths)) for start in starts]
    masks = []
    for start in starts:
        keys = start[:, None] + torch.arange(-cached, frames, device=start.device)
        queries = keys[:, cached - context.lag : cached - context.lag + frames]
        masks.append(_context_masks(context, queries, keys, lengths, windows))
    return masks


def _context_masks(
    context: Context, queries: Tensor, keys: Tensor, lengths: Tensor, windows: Windows | None
) -> LayerMasks:
    """Computes the masks of queries `(B or 1, Tq)` and keys `(B or 1, Tk)`, both given as frame numbers."""
    valid = _inside(queries, lengths)
    if windows is None:
        mask = context.visible(queries, keys) & _inside(keys, lengths)[:, None, :] & valid[:, :, None]
        return LayerMasks(mask[:, None], valid[..., None])
    grouped, windowed = windows.queries(queries, -1), windows.windows(keys, queries.shape[1], -1)
    lengths = lengths[:, None]
    ends = _inside(windowed, lengths)[..., None, :] & _inside(grouped, lengths)[..., None]
    return LayerMasks((context.visible(grouped, windowed) & ends)[:, :, None], valid[..., None])


def _inside(frames: Tensor, lengths: Tensor) -> Tensor:
    return (frames >= 0) & (frames < lengths.unsqueeze(-1))


def all_true(condition: Tensor) -> bool:
    """True if all rows satisfy the condition and reading it is free; a step then skips masks that mask nothing.

    It is not free while tracing a graph, which cannot branch on values, and on devices that would have to synchronize.
    """
    graph = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
    return not graph and condition.device.type == "cpu" and bool(condition.all())
