"""The first thing a request meets and the last thing an answer passes. In: raw ASGI. Out: the same, bounded and safe.

It holds bodies to their size, type and depth, refuses what two readers could understand differently, turns an
unexpected error into a bare 500, adds the headers that every answer carries, and counts. One pure ASGI layer, since
each one costs every request.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from time import perf_counter
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from domain.refusals import Unknown
from infra.http.address import is_https
from infra.http.correlation import ASKED
from infra.http.problems import (
    CODE,
    BodyTooDeep,
    BodyTooLarge,
    BodyTooSlow,
    Refused,
    RepeatedHeader,
    RepeatedKey,
    UnsupportedMediaType,
    unexpected,
)

Header = tuple[bytes, bytes]

# Answers hold personal data: no cache keeps them, no browser guesses their type, runs or frames them, tells others
# their address, or hands them to a page of another origin. What an answer says itself goes before these.
_ALWAYS: list[Header] = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
# RFC 6797 §6.1; not for subdomains, which may be other people's. §7.2: never over plain HTTP.
_SECURE: list[Header] = [*_ALWAYS, (b"strict-transport-security", b"max-age=31536000")]
_NAMES = frozenset(name for name, _ in _SECURE)

# Said twice, one reader takes the first and another the last.
_ONCE = frozenset(
    (
        b"authorization",
        b"content-length",
        b"content-type",
        b"host",
        b"idempotency-key",
        b"purpose-of-use",
        b"read-after",
    )
)

# Where a request's scope keeps who is told, with a code, of answers that turn somebody away.
DENIED = "daybook.denied"
# Besides, whoever names an id that reads as unknown may be guessing whose it is.
_DENIED = frozenset((401, 403, 429))

# Parts of a body that are looked at one by one: a megabyte of `{},{},…` would keep a process busy for a second.
_PARTS = 10_000

# A body over the limit is still read this many times over before the answer, or a client that is busy sending would see
# a broken connection instead of the 413.
_READ_OVER = 32

_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


class Asked(Protocol):
    """A request on its way."""

    def answered(self, scope: Scope, status: int) -> None: ...


class Traces(Protocol):
    """Who follows requests. Neither call waits or raises."""

    def asked(self, scope: Scope) -> Asked: ...


class Edge:
    """Limits are bytes, levels and seconds. `metrics` gets (method, operation, status, seconds) of every answer.
    `media_types` are taken as a body besides JSON."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_limit: int = 1024 * 1024,
        nesting_limit: int = 64,
        body_within: float = 60.0,
        metrics: Any = None,
        traces: Traces | None = None,
        media_types: Iterable[str] = (),
    ) -> None:
        self.app = app
        self.body_limit = body_limit
        self.nesting_limit = nesting_limit
        self.body_within = body_within
        self.metrics = metrics
        self.traces = traces
        self.media_types = frozenset(kind.encode() for kind in media_types)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        status = 0
        extra: list[Header] = []
        scope["daybook.headers"] = extra
        asked = ASKED.set(scope)
        span = None if self.traces is None else self.traces.asked(scope)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _headers(scope, message["headers"], extra)
            await send(message)

        try:
            length, media_type = _body_headers(scope)
            if length is not None:
                receive = await self._body(length, media_type, receive)
            await self.app(scope, receive, answer)
        except Refused as refused:
            scope[CODE] = refused.code
            await refused.response()(scope, receive, answer)
        except _Gone:
            status = 499
        except Exception as error:
            response = unexpected(error)
            if status:
                # Too late for another answer: break off, so that half of one is not taken for the whole.
                raise BrokenOff from None
            await response(scope, receive, answer)
        finally:
            if self.metrics is not None:
                operation = getattr(scope.get("route"), "name", "")
                self.metrics(scope["method"], operation, status, perf_counter() - started)
            if (status in _DENIED or scope.get(CODE) == Unknown.code) and (denied := scope.get(DENIED)) is not None:
                denied(scope, scope.get(CODE, f"status_{status}"))
            if span is not None:
                span.answered(scope, status)
            ASKED.reset(asked)

    async def _body(self, length: int, media_type: bytes, receive: Receive) -> Receive:
        """Read the whole body, within bounds, and give it again to whoever asks. `length` is -1 when not announced."""
        limit = self.body_limit
        chunks: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self.body_within):
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _Gone
                    chunk = message.get("body", b"")
                    more = message.get("more_body", False)
                    size += len(chunk)
                    if size <= limit:
                        chunks.append(chunk)
                    elif size > limit * _READ_OVER or length > limit * _READ_OVER:
                        break
        except TimeoutError:
            raise BodyTooSlow(f"A body comes within {self.body_within:.0f} s.", {"Connection": "close"}) from None
        if size > limit or length > limit:
            headers = {"Connection": "close"} if more else None
            raise BodyTooLarge(f"A body may have {limit} bytes.", headers, limit=limit)
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if body:
            if _is_json(media_type):
                self._check_json(body)
            elif media_type.partition(b";")[0].strip().lower() not in self.media_types:
                kinds = sorted(kind.decode() for kind in self.media_types)
                raise UnsupportedMediaType(
                    f"A body is sent with Content-Type: {' or '.join(['application/json', *kinds])}."
                )
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return again

    def _check_json(self, body: bytes) -> None:
        if body.count(b",") + body.count(b"{") + body.count(b"[") > _PARTS:
            raise BodyTooLarge(f"A body may have {_PARTS} parts.", limit=_PARTS)
        if body.count(b"[") + body.count(b"{") > self.nesting_limit and _depth(body) > self.nesting_limit:
            raise BodyTooDeep(f"A body may be nested {self.nesting_limit} deep.", limit=self.nesting_limit)
        try:
            _READ(body.decode())
        except ValueError:
            # What is wrong with it is said by whoever reads it.
            return


class BrokenOff(Exception):
    """An answer that had begun could not be finished. The server closes the connection."""


class _Gone(Exception):
    """The client left before its request was whole."""


def add_header(scope: Scope, name: bytes, value: bytes) -> None:
    """Have the answer to this request, good or bad, carry a header. Needs an `Edge` around the app."""
    headers: list[Header] | None = scope.get("daybook.headers")
    if headers is not None:
        headers.append((name, value))


def _body_headers(scope: Scope) -> tuple[int | None, bytes]:
    """The announced length of the body (-1: unknown, None: there is no body) and its media type."""
    length: int | None = None
    media_type = b""
    once = set()
    for name, value in scope["headers"]:
        if name in _ONCE:
            if name in once:
                raise RepeatedHeader(f"{name.decode().title()} is sent once.")
            once.add(name)
        if name == b"content-length":
            try:
                length = int(value) or None
            except ValueError:
                length = -1
        elif name == b"transfer-encoding":
            length = -1
        elif name == b"content-type":
            media_type = value
    return length, media_type


def _headers(scope: Scope, own: Iterable[Header], extra: list[Header]) -> list[Header]:
    always = _SECURE if is_https(scope) else _ALWAYS
    said = [name for name, _ in own if name in _NAMES]
    if said:
        always = [header for header in always if header[0] not in said]
    return [*own, *always, *extra]


def _unique(pairs: list[tuple[str, Any]]) -> None:
    """RFC 7493 §2.3: names within an object are unique."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise RepeatedKey("A name stands twice in one object of the body.")


_READ = json.JSONDecoder(object_pairs_hook=_unique).decode


def _is_json(media_type: bytes) -> bool:
    if media_type == b"application/json":
        return True
    kind = media_type.partition(b";")[0].strip().lower()
    return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))


def _depth(body: bytes) -> int:
    deepest = depth = 0
    for token in _TOKENS.finditer(body):
        character = body[token.start()]
        if character in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in b"]}":
            depth -= 1
    return deepest
