"""Dynamically batched PyTorch inference for concurrent streams of audio samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from streamnest.config.aliases import current_stream
from streamnest.encoder.state import OPEN_END, STREAM_LEFT_MS, map_state, plain_state
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.streaming.fast_step import FastStep
from streamnest.streaming.pack_weights import packed_copy
from streamnest.streaming.saved_state import Fingerprint, Progress, check_entries, pending_of, state_of
from streamnest.streaming.session_base import MOST_PENDING_S, Session
from streamnest.streaming.step import StreamState, compact, init_state, step

# Chunks in one step at most, which bounds its memory.
_MOST_CHUNKS = 64


@dataclass
class _Stream:
    state: StreamState | None  # None while it is a row of the current batch of the session
    pending: Tensor
    num_samples_in: int = 0
    emitted: int = 0
    end: int | None = None
    out: list[Tensor] = field(default_factory=list)


class _Batch(NamedTuple):
    """The streams of the last step and their batched state."""

    streams: list[_Stream]
    state: StreamState


class StreamingSession(Session[_Stream]):
    """Dynamically batched inference for concurrent streams, which may start and end at any time.

    The frames of a stream equal those of `EncoderTask.forward` on its whole audio, however the audio is split into
    pieces and whatever other streams do, as long as the stream is not longer than the cap of an unlimited left context;
    see `windowed`. Frames are emitted as soon as no later sample can change them.

    Args:
        model: model to stream. The session computes with a copy (`packed_copy`), which all sessions of one model share.
        max_left_ms: cap of an unlimited left context, see `FastConformer.init_state`.

    Attributes:
        model: the copy, in evaluation mode.

    Raises:
        UserError: for models that cannot stream, and for streams that are not open.
    """

    def __init__(self, model: EncoderTask, max_left_ms: float = STREAM_LEFT_MS) -> None:
        super().__init__()
        if causes := _offline_settings(model):
            raise UserError(
                f"this model needs the whole utterance and cannot stream: {', '.join(causes)}. Train a streaming "
                "preset, such as encoder=lookahead40; init_from=CKPT initializes it with the weights of this model"
            )
        self.model, self.max_left_ms = packed_copy(model), max_left_ms
        self._encode = FastStep(self.model.encoder)
        encoder, frontend = self.model.encoder, self.model.frontend
        self.chunk_samples = encoder.chunk * encoder.subsampling.factor * frontend.hop
        self.first_samples = encoder.first_features * frontend.hop + frontend.overhang
        self.sample_rate, self.frame_ms = frontend.sample_rate, encoder.frame_ms
        self.target_shift = encoder.target_shift
        self._batch: _Batch | None = None
        self._fingerprint = Fingerprint(self.model)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.frontend.window.device

    def windowed(self, number: int) -> bool:
        """True if a stream with unlimited left context has outgrown the cap and uses a window of its past."""
        with self.lock:
            emitted, cap = self._stream(number).emitted, self.cap_frames
        return cap is not None and emitted > cap

    @property
    def cap_frames(self) -> int | None:
        """Leading frames of a stream that equal offline ones if the left context is unlimited; None if all do."""
        encoder = self.model.encoder
        return encoder.left_frames(self.max_left_ms) - encoder.warmup if encoder.context.left is None else None

    def save(self, number: int) -> dict[str, Any]:
        """Returns a stream as plain containers of tensors; after `restore` it continues bit for bit."""
        with self.lock:
            stream = self._stream(number)
            self._split_batch()
            return {
                "state": plain_state(map_state(torch.clone, stream.state)),
                "pending": stream.pending.clone(),
                "num_samples_in": stream.num_samples_in,
                "emitted": stream.emitted,
                "encoder": self._fingerprint(),
            }

    def restore(self, saved: Mapping[str, Any]) -> int:
        """Opens a stream that was saved, in this or another process; returns its number.

        Raises:
            UserError: for anything that `save` of a session of this model does not return; then no stream is opened.
        """
        with self.lock:
            return self._add(self._restored(saved))

    def _restored(self, saved: Mapping[str, Any]) -> _Stream:
        saved = current_stream(saved) if isinstance(saved, Mapping) else saved
        check_entries(saved, self._fingerprint())
        emitted = saved["emitted"]
        progress = self._progress(emitted)
        online = self.model.input_norm.kind == "online"
        state = state_of(saved, self._template(started=emitted > 0), progress, online)
        most = self.first_samples + round(MOST_PENDING_S * self.sample_rate)
        pending = pending_of(saved, self.model.frontend.window, progress, most)
        return _Stream(state, pending, saved["num_samples_in"], emitted)

    def _progress(self, emitted: int) -> Progress:
        """Computes the counters of a stream that has emitted `emitted` frames and has not ended."""
        encoder = self.model.encoder
        if emitted % encoder.chunk:
            raise UserError(
                f"the saved stream has emitted={emitted}: it must be a multiple of the chunk, {encoder.chunk}"
            )
        if not emitted:
            return Progress(0, 0, 0)
        later = emitted // encoder.chunk - 1
        return Progress(
            samples=self.first_samples + later * self.chunk_samples,
            features=encoder.first_features + later * encoder.chunk * encoder.subsampling.factor,
            position=encoder.warmup + emitted,
        )

    def _template(self, started: bool) -> StreamState:
        """Returns a state with the shapes before or after the first step, which changes some of them."""
        state = init_state(self.model, 1, self.max_left_ms)
        return (
            step(self.model, state.frontend.previous.new_zeros(1, self.first_samples), state)[1] if started else state
        )

    def _new(self) -> _Stream:
        state = init_state(self.model, 1, self.max_left_ms)
        return _Stream(state, state.frontend.previous.new_zeros(0))

    def _append(self, stream: _Stream, piece: Tensor) -> None:
        stream.pending = torch.cat([stream.pending, piece.to(stream.pending)])

    def _run(self, streams: list[_Stream]) -> None:
        """Steps all streams that have a complete chunk until none has; first and later steps are batched separately."""
        while ready := [stream for stream in streams if self._chunks(stream) > 0]:
            groups = [[stream for stream in ready if bool(stream.emitted) is started] for started in (False, True)]
            for group in groups:
                if group:
                    self._step(group, min(_MOST_CHUNKS, *map(self._chunks, group)))
        for stream in streams:
            stream.pending = compact(stream.pending)

    def _chunks(self, stream: _Stream) -> int:
        """Number of chunks that a stream can emit now."""
        if stream.end is not None:
            return -(-(self._total(stream.end) - stream.emitted) // self.model.encoder.chunk)
        missing = 0 if stream.emitted else self.first_samples - self.chunk_samples
        return max(0, (len(stream.pending) - missing) // self.chunk_samples)

    def _total(self, samples: int) -> int:
        """Number of encoder frames of a stream of `samples` samples."""
        frames = self.model.frontend.num_frames(torch.tensor(samples))
        return int(self.model.encoder.subsampling.num_frames(frames)) if frames else 0

    @torch.inference_mode()
    def _step(self, group: list[_Stream], chunks: int) -> None:
        """Runs one step of `chunks` chunks for streams that have all emitted frames, or all none.

        Inference mode avoids the bookkeeping of views. Tensors that leave the session are copied outside of inference
        mode and may be used for training.
        """
        need = chunks * self.chunk_samples
        need += 0 if group[0].emitted else self.first_samples - self.chunk_samples
        pieces = [torch.nn.functional.pad(s.pending[:need], (0, max(0, need - len(s.pending)))) for s in group]
        ends = [OPEN_END if s.end is None else s.end for s in group]
        end = None if min(ends) == OPEN_END else torch.tensor(ends, device=self.device)
        encoded, state = step(self.model, torch.stack(pieces), self._batched_state(group), end, self._encode)
        if chunks > 1:
            # States are small views of large tensors, which they would keep in memory while a stream pauses.
            state = map_state(compact, state)
        for row, stream in enumerate(group):
            stream.state, stream.pending = None, stream.pending[need:]
            frames = encoded[row] if stream.emitted else encoded[row, self.model.encoder.warmup :]
            left = len(frames) if stream.end is None else self._total(stream.end) - stream.emitted
            stream.out.append(frames[:left])
            stream.emitted += len(frames)
        self._batch = _Batch(group, state)
        if len(group) == 1:
            self._split_batch()

    def _batched_state(self, group: list[_Stream]) -> StreamState:
        """Returns the state of a group, without copying it if the last step had the same streams."""
        if self._batch and list(map(id, self._batch.streams)) == list(map(id, group)):
            return self._batch.state
        self._split_batch()
        rows = [stream.state for stream in group if stream.state is not None]
        return rows[0] if len(rows) == 1 else map_state(lambda *parts: torch.cat(parts), *rows)

    def _split_batch(self) -> None:
        """Copies the row of each stream out of the batched state; a view would keep the whole batch in memory."""
        if self._batch is None:
            return
        streams, state = self._batch
        for row, stream in enumerate(streams):
            stream.state = state if len(streams) == 1 else map_state(lambda x, at=row: x[at : at + 1].clone(), state)
        self._batch = None

    def _ended(self) -> None:
        self._split_batch()

    def _take(self, stream: _Stream) -> Tensor:
        frames, stream.out = stream.out, []
        return torch.cat(frames) if frames else stream.pending.new_zeros(0, self.model.encoder.d_model)


def _offline_settings(model: EncoderTask) -> list[str]:
    """Lists the settings of a model that prevent streaming."""
    convolution = model.encoder.layers[0].convolution
    causes = {
        "encoder.normalize=utterance": not model.input_norm.causal,
        "encoder.right_context_ms=null": model.encoder.context.chunk is None,
        "encoder.conv_padding=symmetric": convolution.lookahead > 0,
        "encoder.conv_norm=batch_norm": not convolution.norm_is_framewise,
    }
    return [setting for setting, holds in causes.items() if holds]
