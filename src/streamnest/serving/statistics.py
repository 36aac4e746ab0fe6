"""Counters of a server in the text format of Prometheus."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence

_STEP_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_DELAY_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Histogram:
    """Cumulative histogram.

    Args:
        bounds: upper bounds of the buckets, ascending.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        """Returns the histogram in the format of Prometheus."""
        rows, below = [f"# TYPE {name} histogram"], 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            below += count
            rows.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*rows, f"{name}_sum {self.total:.6f}", f"{name}_count {below}"]


class Statistics:
    """Counts of an engine since its start; threads may share it.

    Attributes:
        step: compute time of a step in seconds.
        batch: streams in a step.
        delay: time in seconds from the arrival of audio to its result.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.opened, self.failed, self.refused, self.resumed, self.audio_s = 0, 0, 0, 0, 0.0
        self.step, self.batch, self.delay = Histogram(_STEP_S), Histogram(_BATCH), Histogram(_DELAY_S)

    def count(self, opened: int = 0, failed: int = 0, refused: int = 0, resumed: int = 0) -> None:
        """Adds to the counters of streams."""
        with self._lock:
            self.opened += opened
            self.failed += failed
            self.refused += refused
            self.resumed += resumed

    def stepped(self, seconds: float, batch: int, audio_s: float, delays: Sequence[float]) -> None:
        """Counts a step.

        Args:
            seconds: compute time.
            batch: number of streams.
            audio_s: audio that was consumed.
            delays: for each stream, seconds from the arrival of its last sample to the end of the step.
        """
        with self._lock:
            self.step.add(seconds)
            self.batch.add(batch)
            self.audio_s += audio_s
            for delay in delays:
                self.delay.add(delay)

    def text(self, streams: int, kept: int, lag_s: float, load: float) -> str:
        """Returns all metrics in the format of Prometheus.

        Args:
            streams: number of open streams.
            kept: number of streams without a client.
            lag_s: audio that waits in the stream with the longest queue.
            load: load of the server, as `Load` measures it.
        """
        with self._lock:
            rows = [
                *_number("streams", "gauge", streams),
                *_number("kept_streams", "gauge", kept),
                *_number("lag_seconds", "gauge", round(lag_s, 6)),
                *_number("load", "gauge", round(load, 6)),
                *_number("streams_opened_total", "counter", self.opened),
                *_number("streams_failed_total", "counter", self.failed),
                *_number("streams_refused_total", "counter", self.refused),
                *_number("streams_resumed_total", "counter", self.resumed),
                *_number("audio_seconds_total", "counter", round(self.audio_s, 6)),
                *self.step.lines("streamnest_step_seconds"),
                *self.batch.lines("streamnest_batch_size"),
                *self.delay.lines("streamnest_delay_seconds"),
            ]
        return "\n".join(rows) + "\n"


def _number(name: str, kind: str, value: float) -> list[str]:
    return [f"# TYPE streamnest_{name} {kind}", f"streamnest_{name} {value}"]
