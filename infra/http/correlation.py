"""Under which id a request and all that comes of it stand: in the log's columns, in traces, in what is logged.

In: a request's headers. Out: a UUID, which as 32 hex digits is the trace id of W3C Trace Context.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextvars import ContextVar
from uuid import UUID

from starlette.types import Scope

# The request that is being answered, for whoever logs meanwhile.
ASKED: ContextVar[Scope | None] = ContextVar("asked", default=None)

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def traced_by(headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, int] | None:
    """The trace and the span that a `traceparent` names (W3C Trace Context §3.2). What means nothing is ignored, as it
    asks."""
    for name, value in headers:
        if name == b"traceparent" and (found := _TRACEPARENT.fullmatch(value)):
            trace, span = int(found[1], 16), int(found[2], 16)
            # Version 00 has nothing after the flags.
            if trace and span and not (found[4] and value.startswith(b"00")):
                return trace, span
    return None


def correlation_of(headers: Iterable[tuple[bytes, bytes]]) -> UUID | None:
    """The id under which the caller's other traces stand: the trace id of Trace Context, or else `X-Request-Id` when it
    is a UUID. What is neither is ignored."""
    headers = list(headers)
    if (traced := traced_by(headers)) is not None:
        return UUID(int=traced[0])
    for name, value in headers:
        if name == b"x-request-id":
            try:
                return UUID(value.decode("ascii"))
            except ValueError:
                return None
    return None


def correlate(scope: Scope, given: UUID) -> None:
    scope["daybook.correlation"] = given


def correlated(scope: Scope) -> UUID | None:
    """What `correlate` was told; or, where nobody has, what the caller said."""
    given: UUID | None = scope.get("daybook.correlation")
    return given or correlation_of(scope["headers"])
