"""States of streams that are carried from one piece of their recordings to the next."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from streamnest.data.batch import Seams
from streamnest.encoder import EncoderState, FastConformer
from streamnest.encoder.state import OPEN_END, like_state, map_state, plain_state
from streamnest.errors import UserError
from streamnest.normalization import Normalizer, NormalizerState


class CarriedState(NamedTuple):
    """State of normalizer and encoder after a piece, by row; the front end has none (`piece_features`)."""

    norm: NormalizerState
    encoder: EncoderState


def initial_state(norm: Normalizer, encoder: FastConformer, rows: int, max_left_ms: float) -> CarriedState:
    """Returns the state of rows before their first piece; see `FastConformer.init_state`."""
    return CarriedState(norm.init_state(rows), encoder.init_state(rows, max_left_ms))


def restarted(state: CarriedState, first: Tensor) -> CarriedState:
    """Returns the state with the rows in which a stream begins, `first` `(B,)`, as they are before any audio: zeros."""

    def restart(x: Tensor) -> Tensor:
        # Not a product, which would keep values that are not finite.
        return torch.where(first.view(-1, *[1] * (x.ndim - 1)), torch.zeros_like(x), x)

    restarted_state: CarriedState = map_state(restart, state)
    return restarted_state


def normalize_piece(
    norm: Normalizer, features: Tensor, frames: Tensor, state: CarriedState
) -> tuple[Tensor, CarriedState]:
    """Normalizes features `(B, D, T)` of pieces, `frames` `(B,)` of them valid; also returns the next state."""
    valid = torch.arange(features.shape[-1], device=features.device) < frames[:, None]
    normalized, after = norm.step(features, valid[:, None], state.norm)
    return normalized, state._replace(norm=_kept(after, state.norm))


def encode_piece(
    encoder: FastConformer, features: Tensor, frames: Tensor, seams: Seams, state: CarriedState
) -> tuple[Tensor, Tensor, CarriedState]:
    """Encodes pieces; gradients end at their starts.

    Args:
        encoder: encoder whose first output belongs to the first target frame.
        features: normalized and masked features `(B, D, T)`, whole chunks.
        frames: `(B,)` valid feature frames.
        seams: neighborhood of the rows in their recordings.
        state: state after the piece before.

    Returns:
        `(B, T', d)`, valid encoder frames `(B,)`, and the next state, without gradient.
    """
    before = state.encoder
    end = torch.where(seams.last, before.num_features + frames, OPEN_END)
    encoded, after = encoder.step(features, before, end)
    return encoded, encoder.subsampling.num_frames(frames), state._replace(encoder=_kept(after, before))


def _kept(after: Any, before: Any) -> Any:
    """Returns the state after a step without gradient, and as copies: a step returns views of larger tensors.

    Types are those before the step, because activations may have the precision of autocast.
    """
    return map_state(lambda new, old: new.detach().to(old.dtype, copy=True), after, before)


def gather_state(state: CarriedState) -> Any:
    """Returns the rows of all processes, those of the first one first, as lists of tensors on the CPU."""

    def gather(x: Tensor) -> Tensor:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return x.cpu()
        parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts).cpu()

    return plain_state(map_state(gather, state))


def restore_state(template: CarriedState, saved: Any, rank: int, world_size: int) -> CarriedState:
    """Returns the rows of a process from the output of `gather_state`.

    Args:
        template: state of the rows of one process.
        saved: lists of tensors from a checkpoint.
        rank: rank of the process.
        world_size: number of processes.

    Raises:
        UserError: if the saved state belongs to other rows or another encoder.
    """
    rows = len(template.encoder.position)
    whole = map_state(lambda x: x.new_zeros(1).expand(rows * world_size, *x.shape[1:]), template)
    try:
        state = like_state(whole, saved, "state")
    except UserError as error:
        raise UserError(
            f"the checkpoint does not hold the state of {rows * world_size} streams of this run ({error}): continue "
            "with the same data.piece_s, data.piece_left_s, data.batch_duration and number of processes, or start from "
            "its weights with init_from"
        ) from None
    own: CarriedState = map_state(lambda x: x[rank * rows : (rank + 1) * rows].clone(), state)
    return own
