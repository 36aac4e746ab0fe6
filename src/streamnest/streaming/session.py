"""Waveform samples in, any number at a time; encoder frames out as soon as nothing later can change them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from streamnest.encoder.state import OPEN_END, STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.streaming.fast_step import FastStep
from streamnest.streaming.live import MOST_PENDING_S, LiveStreams
from streamnest.streaming.pack_weights import lay_out_for_steps
from streamnest.streaming.saved_state import Fingerprint, Progress, check_entries, pending_of, state_of
from streamnest.streaming.step import StreamState, compact, init_state, map_state, plain_state, step

# What a step takes at most where more is due: memory is bounded by it.
_MOST_CHUNKS = 64


@dataclass
class _Stream:
    state: StreamState | None  # None while it is a row of the batch of its session
    pending: Tensor
    heard: int = 0
    emitted: int = 0
    end: int | None = None
    out: list[Tensor] = field(default_factory=list)


class _Batch(NamedTuple):
    """Streams that were stepped together, and their state while it is still in one piece."""

    streams: list[_Stream]
    state: StreamState


class StreamingSession(LiveStreams[_Stream]):
    """Live streams that begin and end when they like, served in common batches.

    The frames of a stream are those of `EncoderTask.forward` on its whole audio, however it is cut into pieces and
    whatever the other streams do, as long as it is no longer than the cap of an unlimited left context; see `windowed`.

    Args:
        model: of any task; it is put into evaluation mode, and its weights are laid out for steps.
        max_left_ms: the cap, see `FastConformer.init_state`.

    Raises:
        UserError: for models that cannot stream, and for streams that are not open.
    """

    def __init__(self, model: EncoderTask, max_left_ms: float = STREAM_LEFT_MS) -> None:
        super().__init__()
        if causes := _offline_settings(model):
            raise UserError(
                f"this model hears the whole utterance and cannot stream: {', '.join(causes)}. Train a streaming "
                "preset, such as encoder=lookahead40; init_from=CKPT begins with the weights of this one"
            )
        self.model, self.max_left_ms = model.eval(), max_left_ms
        lay_out_for_steps(model)
        self._encode = FastStep(model.encoder)
        encoder, frontend = model.encoder, model.frontend
        self.chunk_samples = encoder.chunk * encoder.subsampling.factor * frontend.hop
        overhang = len(frontend.window) - len(frontend.window) // 2 - frontend.hop
        self.first_samples = encoder.first_features * frontend.hop + overhang
        self.sample_rate, self.frame_ms = frontend.sample_rate, encoder.frame_ms
        self.target_shift = encoder.target_shift
        self._batch: _Batch | None = None
        self._fingerprint = Fingerprint(model)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.frontend.window.device

    def windowed(self, number: int) -> bool:
        """Whether a stream with unlimited left context has outgrown the cap and sees a window of its past."""
        with self.lock:
            emitted, cap = self._stream(number).emitted, self.cap_frames
        return cap is not None and emitted > cap

    @property
    def cap_frames(self) -> int | None:
        """Frames of a stream that surely equal offline ones, where the left context is unlimited; None is all."""
        encoder = self.model.encoder
        return encoder.left_frames(self.max_left_ms) - encoder.warmup if encoder.context.left is None else None

    def save(self, number: int) -> dict[str, Any]:
        """A stream as plain containers of tensors; it goes on bit-equal after `restore`."""
        with self.lock:
            stream = self._stream(number)
            self._divide()
            return {
                "state": plain_state(map_state(torch.clone, stream.state)),
                "pending": stream.pending.clone(),
                "heard": stream.heard,
                "emitted": stream.emitted,
                "encoder": self._fingerprint(),
            }

    def restore(self, saved: Mapping[str, Any]) -> int:
        """Opens a stream that was saved, here or in another process; returns its number.

        Raises:
            UserError: for anything that `save` of a session of this model does not give; then no stream is opened.
        """
        with self.lock:
            return self._add(self._restored(saved))

    def _restored(self, saved: Mapping[str, Any]) -> _Stream:
        check_entries(saved, self._fingerprint())
        emitted = saved["emitted"]
        progress = self._progress(emitted)
        running = self.model.input_norm.kind == "online"
        state = state_of(saved, self._template(begun=emitted > 0), progress, running)
        most = self.first_samples + round(MOST_PENDING_S * self.sample_rate)
        pending = pending_of(saved, self.model.frontend.window, progress, most)
        return _Stream(state, pending, saved["heard"], emitted)

    def _progress(self, emitted: int) -> Progress:
        """The counters of a stream that has emitted so many frames and has not ended."""
        encoder = self.model.encoder
        if emitted % encoder.chunk:
            raise UserError(f"the saved stream has emitted={emitted}: need a multiple of chunks of {encoder.chunk}")
        if not emitted:
            return Progress(0, 0, 0)
        later = emitted // encoder.chunk - 1
        return Progress(
            samples=self.first_samples + later * self.chunk_samples,
            features=encoder.first_features + later * encoder.chunk * encoder.subsampling.factor,
            position=encoder.warmup + emitted,
        )

    def _template(self, begun: bool) -> StreamState:
        """A state of the sizes before or after the first step, which changes some of them."""
        state = init_state(self.model, 1, self.max_left_ms)
        return step(self.model, state.frontend.previous.new_zeros(1, self.first_samples), state)[1] if begun else state

    def _fresh(self) -> _Stream:
        state = init_state(self.model, 1, self.max_left_ms)
        return _Stream(state, state.frontend.previous.new_zeros(0))

    def _append(self, stream: _Stream, piece: Tensor) -> None:
        stream.pending = torch.cat([stream.pending, piece.to(stream.pending)])

    def _run(self, streams: list[_Stream]) -> None:
        """Steps all streams that have a chunk, together with those at the same phase, until none has."""
        while ready := [stream for stream in streams if self._chunks(stream) > 0]:
            groups = [[stream for stream in ready if bool(stream.emitted) is begun] for begun in (False, True)]
            for group in groups:
                if group:
                    self._step(group, min(_MOST_CHUNKS, *map(self._chunks, group)))
        for stream in streams:
            stream.pending = compact(stream.pending)

    def _chunks(self, stream: _Stream) -> int:
        """How many chunks a stream can emit now."""
        if stream.end is not None:
            return -(-(self._total(stream.end) - stream.emitted) // self.model.encoder.chunk)
        missing = 0 if stream.emitted else self.first_samples - self.chunk_samples
        return max(0, (len(stream.pending) - missing) // self.chunk_samples)

    def _total(self, samples: int) -> int:
        """Encoder frames of a stream of so many samples."""
        frames = self.model.frontend.num_frames(torch.tensor(samples))
        return int(self.model.encoder.subsampling.num_frames(frames)) if frames else 0

    @torch.inference_mode()
    def _step(self, group: list[_Stream], chunks: int) -> None:
        """Steps streams that have all begun, or all not, by so many chunks at once.

        In inference mode, which spares the bookkeeping of views. What leaves the session is copied outside of it and
        may be used for training.
        """
        need = chunks * self.chunk_samples
        need += 0 if group[0].emitted else self.first_samples - self.chunk_samples
        pieces = [torch.nn.functional.pad(s.pending[:need], (0, max(0, need - len(s.pending)))) for s in group]
        ends = [OPEN_END if s.end is None else s.end for s in group]
        end = None if min(ends) == OPEN_END else torch.tensor(ends, device=self.device)
        encoded, state = step(self.model, torch.stack(pieces), self._together(group), end, self._encode)
        if chunks > 1:
            # What a stream keeps of a long step is a small end of it, and would hold all of it while the stream pauses.
            state = map_state(compact, state)
        for row, stream in enumerate(group):
            stream.state, stream.pending = None, stream.pending[need:]
            frames = encoded[row] if stream.emitted else encoded[row, self.model.encoder.warmup :]
            left = len(frames) if stream.end is None else self._total(stream.end) - stream.emitted
            stream.out.append(frames[:left])
            stream.emitted += len(frames)
        self._batch = _Batch(group, state)
        if len(group) == 1:
            self._divide()

    def _together(self, group: list[_Stream]) -> StreamState:
        """The state of a group; where the same streams go on together it was never divided."""
        if self._batch and list(map(id, self._batch.streams)) == list(map(id, group)):
            return self._batch.state
        self._divide()
        rows = [stream.state for stream in group if stream.state is not None]
        return rows[0] if len(rows) == 1 else map_state(lambda *parts: torch.cat(parts), *rows)

    def _divide(self) -> None:
        """Gives each stream of the last batch a state of its own: a view would hold the memory of all of them."""
        if self._batch is None:
            return
        streams, state = self._batch
        for row, stream in enumerate(streams):
            stream.state = state if len(streams) == 1 else map_state(lambda x, at=row: x[at : at + 1].clone(), state)
        self._batch = None

    def _ended(self) -> None:
        self._divide()

    def _take(self, stream: _Stream) -> Tensor:
        frames, stream.out = stream.out, []
        return torch.cat(frames) if frames else stream.pending.new_zeros(0, self.model.encoder.d_model)


def _offline_settings(model: EncoderTask) -> list[str]:
    """Settings of a model that keep it from streaming."""
    convolution = model.encoder.layers[0].convolution
    causes = {
        "encoder.normalize=utterance": not model.input_norm.causal,
        "encoder.right_context_ms=null": model.encoder.context.chunk is None,
        "encoder.conv_padding=symmetric": convolution.lookahead > 0,
        "encoder.conv_norm=batch_norm": not convolution.norm_is_framewise,
    }
    return [setting for setting, holds in causes.items() if holds]
