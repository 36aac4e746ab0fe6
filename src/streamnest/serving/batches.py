"""Common computation of the streams of a step: a batch for each context."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import torch
from torch import Tensor

from streamnest.serving.stream import Stream
from streamnest.streaming.session_base import Session

log = logging.getLogger(__name__)
# Computes the frames of rows of a session from their samples.
Compute: TypeAlias = Callable[[Session[Any], dict[int, Tensor]], dict[int, Tensor]]


def compute_batches(streams: Mapping[int, Stream], compute: Compute, pieces: dict[int, Tensor]) -> dict[int, Tensor]:
    """Computes the frames of each stream; streams that fail are missing.

    The streams of one context are one batch. If it fails, each stream is computed alone, so that only those that
    cause the failure are lost.

    Args:
        streams: all streams by number.
        compute: computation of a batch.
        pieces: samples by the number of the stream.
    """
    frames = dict[int, Tensor]()
    for session in dict.fromkeys(streams[number].session for number in pieces):
        group = {n: piece for n, piece in pieces.items() if streams[n].session is session}
        try:
            frames |= _in_batch(streams, session, compute, group)
            continue
        except Exception as error:  # whatever a computation raises must not end other streams
            log.warning("a step of %d streams failed with %s", len(group), type(error).__name__)
        for number in group:
            with suppress(Exception):
                # The session has queued the samples of all streams before the step that failed.
                frames |= _in_batch(streams, session, compute, {number: torch.zeros(0)})
    return frames


def _in_batch(
    streams: Mapping[int, Stream], session: Session[Any], compute: Compute, pieces: dict[int, Tensor]
) -> dict[int, Tensor]:
    rows = {number: streams[number].row for number in pieces}
    frames = compute(session, {row: pieces[number] for number, row in rows.items() if row is not None})
    return {number: frames[row] for number, row in rows.items() if row is not None}
