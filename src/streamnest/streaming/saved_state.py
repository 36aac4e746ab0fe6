"""Validation of a saved stream before a session restores it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from streamnest.encoder.state import OPEN_END, like_state
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.samples import as_samples
from streamnest.streaming.step import StreamState


class Progress(NamedTuple):
    """Counters of a stream, which follow from the number of frames that it has emitted."""

    samples: int
    features: int
    position: int


class Fingerprint:
    """Identifies the weights and context of an encoder, its front end and its normalizer.

    The checksum of the weights is computed once, and again after they were replaced or modified in place.

    Args:
        model: model whose streams are saved.
    """

    def __init__(self, model: EncoderTask) -> None:
        self.model = model
        self._versions: list[tuple[int, int]] = []
        self._checksum = 0

    def __call__(self) -> str:
        """Returns equal texts for models that compute the same function of the audio."""
        versions = [(x.data_ptr(), 0 if x.is_inference() else x._version) for x in self._tensors()]
        if versions != self._versions:
            self._versions, self._checksum = versions, 0
            for x in self._tensors():
                numbers = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
                self._checksum = zlib.crc32(numbers.data, self._checksum)
        frontend, context = self.model.frontend, self.model.encoder.context
        chunk = f" {context.chunk}" if context.style == "buffered" else ""
        return f"{self._checksum:08x} {frontend.hop} {frontend.n_fft} {frontend.preemphasis} {context}{chunk}"

    def _tensors(self) -> Iterator[Tensor]:
        parts = (self.model.frontend, self.model.input_norm, self.model.encoder)
        return chain.from_iterable(chain(part.parameters(), part.buffers()) for part in parts)


def check_entries(saved: Any, fingerprint: str) -> None:
    """Checks that a saved stream has the entries of `StreamingSession.save` and comes from the same model.

    Raises:
        UserError: if it does not.
    """
    needed = ("state", "pending", "num_samples_in", "emitted")
    missing = [name for name in needed if name not in saved] if isinstance(saved, Mapping) else list(needed)
    if missing:
        raise UserError(f"the saved stream has no {', '.join(missing)}: pass the return value of save()")
    # Streams of earlier versions have no fingerprint.
    if saved.get("encoder", fingerprint) != fingerprint:
        raise UserError("the saved stream belongs to another model or context: restore it with the model that saved it")
    for name in ("num_samples_in", "emitted"):
        if type(saved[name]) is not int or not 0 <= saved[name] < OPEN_END:
            raise UserError(f"the saved stream has {name}={saved[name]!r}: it must be a whole number from 0")


def state_of(saved: Mapping[str, Any], template: StreamState, progress: Progress, online: bool) -> StreamState:
    """Rebuilds the state of a saved stream.

    Args:
        saved: entries that `check_entries` accepts.
        template: state with the required shapes and types.
        progress: counters that the state must have.
        online: True if the normalizer counts frames.

    Raises:
        UserError: for a state of other shapes or types, and for counters that contradict each other.
    """
    state: StreamState = like_state(template, saved["state"])
    frontend, norm, encoder = state
    counters = [
        int(x) for x in (frontend.position, frontend.frames, encoder.num_features, encoder.position, norm.frames)
    ]
    features = progress.features
    if counters != [progress.samples, features, features, progress.position, features if online else 0]:
        raise UserError(f"the counters of the saved stream contradict emitted={saved['emitted']}: it was modified")
    return state


def pending_of(saved: Mapping[str, Any], like: Tensor, progress: Progress, most: int) -> Tensor:
    """Returns the samples that a saved stream has not processed yet.

    Args:
        saved: entries that `check_entries` accepts.
        like: tensor of the required type and device.
        progress: counters of the stream.
        most: largest number of pending samples.

    Raises:
        UserError: for anything but samples of that type, and for another number of samples.
    """
    pending, expected = saved["pending"], saved["num_samples_in"] - progress.samples
    if not isinstance(pending, Tensor) or pending.dtype != like.dtype or pending.is_meta:
        raise UserError(f"the pending samples of the saved stream are not a tensor of {like.dtype}")
    try:
        as_samples(pending)
    except UserError as error:
        raise UserError(f"the pending samples of the saved stream are invalid: {error}") from None
    if not len(pending) == expected <= most:
        raise UserError(
            f"the saved stream has {len(pending)} pending samples, but by its counters there are {expected}"
        )
    return pending.detach().to(like.device).clone()
