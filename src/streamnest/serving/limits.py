"""Limits of a server, which bound its memory and the time that one client can take from the others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        streams: concurrent streams; also the largest number of kept ones.
        load: measured load (`Load`) above which new streams are refused; None for no such limit.
        keep_s: time that a stream without a client is kept; 0 keeps none.
        queue_s: audio of a stream that may wait; reading from its client pauses above it.
        queue_pieces: pieces of a stream that may wait, however short they are.
        step_s: audio of a stream that one step consumes at most, so that a backlog does not delay other streams.
        lag_s: waiting audio from which on a client is warned.
        message_bytes: size of a WebSocket message.
        hello_s: time from the connection to the first message.
        idle_s: time without audio, also while a file is uploaded.
        send_s: time that a client has to read an error, and to confirm the end of the connection.
        drain_s: time that streams have to finish after SIGTERM.
        file_bytes: size of an uploaded file.
        file_s: duration of an uploaded file.
    """

    streams: int = 32
    load: float | None = None
    keep_s: float = 60.0
    queue_s: float = 5.0
    queue_pieces: int = 500
    step_s: float = 0.4
    lag_s: float = 0.5
    message_bytes: int = 1 << 18
    hello_s: float = 10.0
    idle_s: float = 30.0
    send_s: float = 10.0
    drain_s: float = 10.0
    file_bytes: int = 50_000_000
    file_s: float = 600.0
