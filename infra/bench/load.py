"""A load generator: many connections kept open, each sending its next request when the last is answered.

In: requests as bytes. Out: how long each took and what its answer was. It does little per request, so that it measures
the server and not itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Measured:
    """`seconds` is the whole run; `latencies` are seconds, one an answered request; `statuses` counts answers."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def request(method: str, path: str, *, token: str | None = None, body: bytes = b"", **headers: str) -> bytes:
    """One HTTP/1.1 request, ready to be sent."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", f"Content-Length: {len(body)}"]
    if body:
        lines.append("Content-Type: application/json")
    if token:
        lines.append(f"Authorization: Bearer {token}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class _Client(asyncio.Protocol):
    def __init__(self, work: Iterator[bytes], measured: Measured, keep_bodies: bool, done: asyncio.Event) -> None:
        self._work = work
        self._measured = measured
        self._keep = keep_bodies
        self._done = done
        self._buffer = b""
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def begin(self) -> None:
        self._next()

    def _next(self) -> None:
        assert self._transport is not None
        one = next(self._work, None)
        if one is None:
            self._transport.close()
            self._done.set()
            return
        self._sent = time.perf_counter()
        self._transport.write(one)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = 0
        for line in head.split(b"\r\n")[1:]:
            if line[:15].lower() == b"content-length:":
                length = int(line[15:])
                break
        if len(rest) < length:
            return
        self._measured.latencies.append(time.perf_counter() - self._sent)
        self._measured.statuses[int(head[9:12])] += 1
        if self._keep:
            self._measured.bodies.append(rest[:length])
        self._buffer = rest[length:]
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.is_set():
            self._measured.statuses[0] += 1
            self._done.set()


async def drive(
    host: str, port: int, requests: Sequence[bytes], *, clients: int, keep_bodies: bool = False
) -> Measured:
    """Send every request once, `clients` at a time. A connection that breaks counts as status 0."""
    loop = asyncio.get_running_loop()
    measured = Measured()
    work = iter(requests)
    protocols: list[tuple[_Client, asyncio.Event]] = []
    for _ in range(clients):
        done = asyncio.Event()
        _, client = await loop.create_connection(
            lambda done=done: _Client(work, measured, keep_bodies, done),  # type: ignore[misc]
            host,
            port,
        )
        protocols.append((client, done))
    started = time.perf_counter()
    for client, _ in protocols:
        client.begin()
    await asyncio.gather(*(done.wait() for _, done in protocols))
    measured.seconds = time.perf_counter() - started
    return measured
