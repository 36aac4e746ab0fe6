"""Results for uploaded audio files."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import IO, Any

import soundfile
import torch
from starlette.requests import ClientDisconnect, Request

from streamnest.errors import UserError
from streamnest.serving.hub import Hub
from streamnest.serving.outbox import LAST
from streamnest.streaming.audio_sources import load_audio

# Files that are decoded and transcribed at the same time.
_FILES_AT_ONCE = 2
_PIECE = 3200


class TooLargeError(UserError):
    """An uploaded file is larger or longer than allowed."""


class Uploads:
    """Computes the results of uploaded files.

    Args:
        hub: hub of the engine.
    """

    def __init__(self, hub: Hub) -> None:
        self.hub, self.limits, self.rate = hub, hub.engine.limits, hub.engine.sample_rate
        self._files = asyncio.Semaphore(_FILES_AT_ONCE)

    async def transcribe(self, request: Request) -> dict[str, Any]:
        """Returns the result of the audio file in the body of a request, or its error as `message`.

        Raises:
            ClientDisconnect: if the client is gone.
            TooLargeError: for a file larger or longer than allowed.
            BusyError: if no further stream can be opened.
            UserError: for a file that cannot be decoded, and if no data comes for too long.
        """
        with tempfile.NamedTemporaryFile() as file:
            await self._receive(request, file)
            async with self._files:
                audio = await asyncio.to_thread(self._decoded, Path(file.name))
                return await self._transcribed(request, audio)

    async def _receive(self, request: Request, file: IO[bytes]) -> None:
        size, pieces = 0, request.stream().__aiter__()
        while True:
            try:
                piece = await asyncio.wait_for(pieces.__anext__(), self.limits.idle_s)
            except StopAsyncIteration:
                break
            except asyncio.TimeoutError:
                raise UserError(f"no data came for {self.limits.idle_s:g} s") from None
            size += len(piece)
            if size > self.limits.file_bytes:
                raise TooLargeError(f"the file is too large: the limit is {self.limits.file_bytes} bytes")
            file.write(piece)
        file.flush()

    def _decoded(self, path: Path) -> torch.Tensor:
        """Reads an uploaded file, whose duration is checked first."""
        try:
            info = soundfile.info(str(path))
            if info.frames > self.limits.file_s * info.samplerate:
                raise TooLargeError(f"the file is too long: the limit is {self.limits.file_s:g} s")
            return load_audio(path, self.rate)
        except TooLargeError:
            raise
        except (soundfile.LibsndfileError, UserError) as error:
            text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
            raise UserError(f"the file cannot be used: {text.replace(str(path), 'it')}") from None

    async def _transcribed(self, request: Request, audio: torch.Tensor) -> dict[str, Any]:
        """Returns the result of a file without fields of live streams, or its error."""
        stream = self.hub.open(request.query_params.get("context"))
        try:
            for piece in audio.split(_PIECE):
                if await request.is_disconnected():
                    raise ClientDisconnect
                await self.hub.push(stream, piece)
            self.hub.end(stream)
            codes: list[list[int]] = []
            while True:
                message = await stream.outbox.next()
                codes += message.get("codes", [])
                if message["type"] in LAST:
                    break
        finally:
            self.hub.discard(stream)
        message["codes"] = codes
        names = ["message"] if message["type"] == "error" else [self.hub.engine.served.kind, "seconds"]
        return {name: message[name] for name in names}
