"""Part `stream`: time of a streaming step of many streams, launched by the host or replayed from a CUDA graph."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from accelerator_parts.devices import is_out_of_memory, peak_gb, release, reset_peak, synchronize
from accelerator_parts.pretraining_step import build
from accelerator_parts.results import PartResult, Row
from accelerator_parts.settings import Budget, Settings
from streamnest.encoder.state import map_state
from streamnest.pretraining import Pretraining
from streamnest.streaming.fast_step import FastStep
from streamnest.streaming.pack_weights import lay_out_for_steps
from streamnest.streaming.step import StreamState, init_state, step

CHUNK_MS, LEFT_MS = 80.0, 5600.0
# Largest difference between a replayed graph and the same steps launched by the host.
GRAPH_TOLERANCE = 1e-4
_STEPS, _SMALL_STEPS, _CHECKED = 50, 10, 3


def run(settings: Settings, budget: Budget, result: PartResult, _: float | None) -> None:
    """Measures each number of streams, first without CUDA graphs, because a failed capture may disturb the device."""
    result.title = f"steps of {CHUNK_MS:g} ms, {LEFT_MS / 1000:g} s of left context, float32"
    model = build((*settings.model, f"encoder.left_context_ms={LEFT_MS:g}"), training=False).eval().to(settings.device)
    lay_out_for_steps(model)
    for graph in (False, True):
        if graph and settings.device.type != "cuda":
            result.notes.append("CUDA graphs: not measured, because the device is not CUDA.")
            continue
        for streams in settings.streams:
            if not budget.allows(result, f"{streams} streams, {'CUDA graph' if graph else 'no graph'}"):
                continue
            result.rows.append(
                {"streams": streams, "CUDA graph": graph, **_attempt(model, streams, graph, settings, result)}
            )
    rates = [value for row in result.rows if isinstance(value := row.get("streams in real time"), float)]
    if rates:
        result.notes.append(f"At most {max(rates):,.0f} streams per device in real time, without other work.")


def _attempt(model: Pretraining, streams: int, graph: bool, settings: Settings, result: PartResult) -> Row:
    """Measures one number of streams; an error is a remark of the row, and a failure unless memory is the cause."""
    try:
        return _measure(model, streams, graph, settings, result)
    except (RuntimeError, MemoryError) as error:
        remark = "out of memory" if is_out_of_memory(error) else str(error).strip().partition("\n")[0]
    if remark != "out of memory":
        result.failures.append(f"{streams} streams, {'CUDA graph' if graph else 'no graph'}: {remark}")
    release()
    return {"remark": remark}


@torch.inference_mode()
def _measure(model: Pretraining, streams: int, graph: bool, settings: Settings, result: PartResult) -> Row:
    reset_peak(settings.device)
    stepper = _Stepper(model, streams)
    advance = stepper.captured() if graph else stepper.advance
    if graph and (found := stepper.graph_difference(advance)) > GRAPH_TOLERANCE:
        result.failures.append(f"{streams} streams: the CUDA graph differs by {found:.1e} from the steps it replays")
    times = []
    for _ in range(_SMALL_STEPS if settings.small else _STEPS):
        synchronize(settings.device)
        begin = time.perf_counter()
        advance()
        synchronize(settings.device)
        times.append(1000 * (time.perf_counter() - begin))
    middle = statistics.median(times)
    return {
        "ms per step": middle,
        "range, ms": f"{min(times):.2f} to {max(times):.2f}",
        "streams in real time": streams * CHUNK_MS / middle if middle <= CHUNK_MS else 0.0,
        "peak memory, GB": peak_gb(settings.device),
    }


class _Stepper:
    """Steps of streams whose left context is filled.

    Args:
        model: model in evaluation mode.
        streams: number of streams.
    """

    def __init__(self, model: Pretraining, streams: int) -> None:
        encoder, hop = model.encoder, model.frontend.hop
        self.model, self.encode = model, FastStep(encoder)
        chunk = round(CHUNK_MS / encoder.frame_ms) * encoder.subsampling.factor * hop
        overhang = round(model.frontend.window_overhang_ms * model.sample_rate / 1000)
        first = encoder.first_features * hop + overhang
        generator = torch.Generator().manual_seed(0)
        device = model.frontend.window.device
        self.piece = 0.1 * torch.randn(streams, chunk, generator=generator).to(device)
        start = 0.1 * torch.randn(streams, first, generator=generator).to(device)
        _, self.state = step(model, start, init_state(model, streams), encode=self.encode)
        self.out, self.state = self._next(self.state)
        frames = chunk // (encoder.subsampling.factor * hop)
        for _ in range((encoder.context.left or 0) // frames):
            self.advance()

    def advance(self) -> None:
        """Runs one step."""
        self.out, self.state = self._next(self.state)

    def advance_in_place(self) -> None:
        """Runs one step and writes the new state over the old one, as a graph needs, whose addresses are fixed."""
        kept = tensors(self.state)
        own = {x.untyped_storage().data_ptr() for x in kept}
        self.out, after = self._next(self.state)
        # A view of the old state is copied first, before that state is overwritten.
        following = [x.clone() if x.untyped_storage().data_ptr() in own else x for x in tensors(after)]
        for old, new in zip(kept, following, strict=True):
            old.copy_(new)

    def captured(self) -> Callable[[], Any]:
        """Captures `advance_in_place` as a CUDA graph; returns the function that replays it."""
        self.own_state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries allocate their workspaces outside of the capture
            for _ in range(3):
                self.advance_in_place()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.advance_in_place()
        return graph.replay

    def own_state(self) -> None:
        """Copies the state, so that no two of its tensors share memory."""
        self.state = map_state(torch.clone, self.state)

    def graph_difference(self, replay: Callable[[], Any]) -> float:
        """Returns the largest difference between replayed steps and the same steps launched by the host."""
        state, largest = map_state(torch.clone, self.state), 0.0
        for _ in range(_CHECKED):
            replay()
            expected, state = self._next(state)
            largest = max(largest, float((self.out - expected).abs().max()))
        return largest

    def _next(self, state: StreamState) -> tuple[Tensor, StreamState]:
        return step(self.model, self.piece, state, encode=self.encode)


def tensors(state: Any) -> list[Tensor]:
    """Returns the tensors of a state in a fixed order."""
    return [state] if isinstance(state, Tensor) else [x for part in state for x in tensors(part)]
