"""A request's head is short and comes soon. In: what a connection sends. Out: the same, or a connection that is closed.

uvicorn's parser takes a head of any length for as long as it takes, so one connection could fill the memory, and many
slow ones hold all that there are, before the first line of ours runs.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infra.http.problems import HeadTooLong

_WORDS = HeadTooLong("The head of the request is too long.").response().body
_TOO_LONG = b"\r\n".join(
    (
        b"HTTP/1.1 431 Request Header Fields Too Large",
        b"content-type: application/problem+json",
        b"content-length: %d" % len(_WORDS),
        b"connection: close",
        b"",
        bytes(_WORDS),
    )
)


class Heads(HttpToolsProtocol):
    """RFC 6585 §5: 431 for a head of more than `longest` bytes. One that has not come whole `within` so many seconds
    after the connection or its own first byte is not waited for."""

    longest: ClassVar[int] = 64 * 1024
    within: ClassVar[float] = 20.0

    _size = 0
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._came()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._size = 1

    def on_headers_complete(self) -> None:
        self._size = 0
        self._came()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._size or self.transport.is_closing():
            return
        self._size += len(data)
        if self._waiting is None:
            self._wait()
        if self._size > self.longest:
            self.transport.write(_TOO_LONG)
            self.transport.close()

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.within, self.transport.close)

    def _came(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
