"""Sound on its way to a browser while it is still being made: one short-lived queue per press of Speak.

The maker puts samples in and never waits; one reader, a request of the page, takes them out. Where nobody reads, reads
too late or goes away in the middle, what is kept is bounded, and the maker does not notice.

What is sent: the sample rate as four bytes, then 16-bit samples of one channel, all with the lowest byte first.
"""

import asyncio
import contextlib
import secrets
import struct
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException, Request
from fastapi.routing import APIRoute
from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    import numpy as np

ROUTE = "/gpt-sovits2/stream/{token}"
GUARDED = "/config"
"""A route of Gradio's that only a visitor who has logged in may read."""
PLAYER = Path(__file__).parent / "assets" / "live.js"

MOST_BYTES = 40 << 20
"""Ten minutes at 32 kHz that no browser has taken yet; then the live sound ends, and the finished one is left."""
MOST_SOUNDS = 16
"""Sounds that wait for their reader at once; the oldest goes first."""
UNREAD_SECONDS = 60.0
"""For how long a finished sound waits: a short one may be done before the browser has asked for it."""
TICK_SECONDS = 0.5
"""How often a waiting reader looks whether the server is closing."""


class LiveSound:
    """The sound of one run, from the thread that makes it to the request that reads it."""

    def __init__(self, most_bytes: int = MOST_BYTES):
        self.opened = time.monotonic()
        self.first_seconds: float | None = None
        """From the press of Speak to the first samples."""
        self.ended_at: float | None = None
        self._most, self._held = most_bytes, 0
        self._parts: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._wake: Callable[[], None] = lambda: None

    @property
    def held_bytes(self) -> int:
        """What waits for a reader."""
        return self._held

    def put(self, wav: "np.ndarray", sample_rate: int) -> None:
        """Add samples float32 [S] in -1..1. Never waits; without effect once the sound has ended."""
        pcm = (wav.clip(-1.0, 1.0) * 32767).round().astype("<i2").tobytes()
        with self._lock:
            if self.ended_at is not None:
                return
            if self.first_seconds is None:
                self.first_seconds = time.monotonic() - self.opened
                pcm = struct.pack("<I", sample_rate) + pcm
            if self._held + len(pcm) > self._most:
                self.ended_at = time.monotonic()
            else:
                self._parts.append(pcm)
                self._held += len(pcm)
        self._wake()

    def end(self) -> None:
        """No more samples will come; what waits may still be read."""
        with self._lock:
            self.ended_at = self.ended_at or time.monotonic()
        self._wake()

    def drop(self) -> None:
        """Forget what waits: nobody will read it."""
        with self._lock:
            self.ended_at = self.ended_at or time.monotonic()
            self._parts.clear()
            self._held = 0
        self._wake()

    async def read(self, closing: Callable[[], bool] = lambda: False) -> AsyncIterator[bytes]:
        """All bytes, as soon as they are there, until the sound ends. To be read once."""
        loop, more = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the server's loop is closed already
                loop.call_soon_threadsafe(more.set)

        self._wake = wake
        try:
            while not closing():
                more.clear()
                part, over = self._take()
                if part:
                    yield part
                elif over:
                    return
                else:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(more.wait(), TICK_SECONDS)
        finally:
            self.drop()

    def _take(self) -> tuple[bytes, bool]:
        with self._lock:
            part = b"".join(self._parts)
            self._parts.clear()
            self._held = 0
            return part, self.ended_at is not None


class LiveSounds:
    """The live sounds of all open pages: handed to the maker by session, to the reader by a token nobody can guess."""

    def __init__(self, most_sounds: int = MOST_SOUNDS, unread_seconds: float = UNREAD_SECONDS):
        self._most, self._unread_seconds = most_sounds, unread_seconds
        self._by_token: dict[str, LiveSound] = {}
        self._by_session: dict[str, LiveSound] = {}
        self._lock = threading.Lock()

    def open(self, session: str) -> str:
        """A sound for the next run of this session, in place of an earlier one; returns its token."""
        token, sound = secrets.token_urlsafe(24), LiveSound()
        with self._lock:
            earlier = self._by_session.pop(session, None)
            self._by_session[session] = sound
            self._by_token[token] = sound
            gone = [earlier] if earlier else []
            gone += self._forget_unread()
        for old in gone:
            old.drop()
        return token

    def take(self, session: str) -> LiveSound | None:
        """The sound that this session's run is to fill, once; None when nobody listens."""
        with self._lock:
            return self._by_session.pop(session, None)

    def close(self, session: str) -> None:
        """The session's run is over, even if it never began."""
        sound = self.take(session)
        if sound is not None:
            sound.end()

    def claim(self, token: str) -> LiveSound | None:
        """The sound to read, once; None for a token that is wrong, read already, or too old."""
        with self._lock:
            return self._by_token.pop(token, None)

    def _forget_unread(self) -> list[LiveSound]:
        """Take out what nobody came for: dropped or ended long ago, and the oldest when there are too many."""
        before = time.monotonic() - self._unread_seconds
        old = [token for token, s in self._by_token.items() if s.ended_at is not None and s.ended_at < before]
        kept = [token for token in self._by_token if token not in old]
        old += kept[: max(0, len(kept) - self._most)]
        gone = [self._by_token.pop(token) for token in old]
        for session in [name for name, sound in self._by_session.items() if sound in gone]:
            del self._by_session[session]
        return gone


def serve_live(app: FastAPI, sounds: LiveSounds) -> None:
    """Add the route of live sounds to the page's server, behind the very check that guards the page's own data.

    Args:
        app: Gradio's.
        sounds: of the services.

    Raises:
        LookupError: Gradio guards its data in another way now; without a check the route must not be served.
    """
    guards = [r.dependencies for r in app.routes if isinstance(r, APIRoute) and r.path == GUARDED]
    if not guards or not guards[0]:
        raise LookupError(f"Gradio's route {GUARDED} has no guard")
    closing = getattr(app, "stop_event", None)

    async def stream(token: str, request: Request) -> StreamingResponse:
        sound = sounds.claim(token)
        if sound is None:
            raise HTTPException(404)
        return StreamingResponse(
            sound.read(closing.is_set if closing is not None else lambda: False),
            media_type="application/octet-stream",
            # A proxy that collects the answer would undo it.
            headers={"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"},
        )

    app.add_api_route(ROUTE, stream, methods=["GET"], dependencies=list(guards[0]), include_in_schema=False)


def player_script() -> str:
    """The browser's side, as the function that Gradio runs when the page has loaded."""
    return "() => {" + PLAYER.read_text(encoding="utf-8") + "}"
