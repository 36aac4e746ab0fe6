"""Soak test of a server: clients that come and go, and whether anything is lost or grows."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from serving_parts import clients
from serving_parts.clients import Audio
from serving_parts.process import ServerProcess

# Seconds after which the server discards streams whose clients have vanished.
KEEP_S = 3
_MEMORY_GROWTH = 1.1
_CLIENTS = (clients.real_time, clients.fast, clients.slow_reader, clients.vanishing, clients.resuming)


@dataclass
class Soak:
    """Outcome of a soak test.

    Attributes:
        equal: streams with the text that they must have.
        different: streams with another text.
        vanished: streams whose client ended the connection.
        lost: reasons why other streams have no text.
        memory_mb: resident memory of the server over time.
        metrics: metrics of the server after all clients have left.
    """

    equal: int = 0
    different: int = 0
    vanished: int = 0
    lost: list[str] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def memory(self) -> tuple[float, float]:
        """Largest memory in the first and in the last third; the first tenth fills the caches of the allocator."""
        settled = self.memory_mb[len(self.memory_mb) // 10 :]
        third = max(1, len(settled) // 3)
        return max(settled[:third]), max(settled[-third:])

    @property
    def passed(self) -> bool:
        """True if all texts are equal, the server counted the same streams and kept none, and memory is constant."""
        started = self.equal + self.different + self.vanished + len(self.lost)
        counted = self.metrics["streams_opened_total"] == started
        open_now = self.metrics["streams"] + self.metrics["kept_streams"]
        constant = self.memory[1] <= _MEMORY_GROWTH * self.memory[0]
        return bool(self.equal and counted and not open_now and not self.different and not self.lost and constant)

    def lines(self) -> list[str]:
        """Describes the test."""
        first, last = self.memory
        count = {name: f"{self.metrics[f'streams_{name}_total']:.0f}" for name in ("opened", "resumed", "failed")}
        return [
            f"{self.equal} texts equal, {self.different} different, {len(self.lost)} lost, {self.vanished} vanished",
            f"server: {count['opened']} streams opened, {count['resumed']} times resumed, {count['failed']} failed, "
            f"{self.metrics['audio_seconds_total']:.0f} s of audio",
            f"at the end: {self.metrics['streams']:.0f} streams open, {self.metrics['kept_streams']:.0f} kept",
            f"memory: {first:.0f} MB in the first third, {last:.0f} MB in the last, ratio {last / max(1, first):.3f}",
            *self.lost[:5],
        ]


async def soak(
    server: ServerProcess, seconds: float, number: int, clips: list[Audio], texts: list[str], rate: int
) -> Soak:
    """Keeps a number of random clients busy for a while.

    Args:
        server: server to use.
        seconds: duration.
        number: clients at any time.
        clips: audio to send.
        texts: text of each clip without a server.
        rate: sampling rate.
    """
    result, end = Soak(), time.monotonic() + seconds

    async def run_one() -> None:
        at, act = random.randrange(len(clips)), random.choice(_CLIENTS)
        try:
            text = await act(server.address, clips[at], rate)
        except Exception as error:  # whatever happens to a client is counted
            result.lost.append(f"{act.__name__}: {type(error).__name__}: {error}")
            return
        if text is None:
            result.vanished += 1
        elif text == texts[at]:
            result.equal += 1
        else:
            result.different += 1

    async def repeat() -> None:
        while time.monotonic() < end:
            await run_one()

    async def watch() -> None:
        while time.monotonic() < end:
            result.memory_mb.append(server.memory_mb)
            await asyncio.sleep(seconds / 60)

    await asyncio.gather(watch(), *(repeat() for _ in range(number)))
    await asyncio.sleep(KEEP_S + 1)
    result.metrics = server.metrics()
    return result
