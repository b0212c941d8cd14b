"""Lets apps that run in a browser, under an origin of their own, read answers: CORS (Fetch Standard §3.3; SMART App
Launch 2 asks for it). In: an application and the origins that its operator names. Out: the same, readable from there.

Nothing of it lets anybody in: the APIs take tokens in a header, and a cookie is never looked at where this answers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

# The pages beside these live by cookies, and are for nobody else's pages to read.
_PROTOCOL: Final = frozenset(("/oauth/token", "/oauth/revoke", "/oauth/userinfo"))
_APIS: Final = ("/read/", "/write/")

_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_ASKED_WITH: Final = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Purpose-Of-Use",
    "Read-After",
    "Traceparent",
    "X-Request-Id",
)
_ANSWERED_WITH: Final = (
    "ETag",
    "Location",
    "Position",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-Id",
)


class PageApps:
    """`origins` as browsers write them: scheme, host, and a port where it is not the scheme's own."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._readable = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_ASKED_WITH,
            expose_headers=_ANSWERED_WITH,
            allow_credentials=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        readable = path in _PROTOCOL or path.startswith(_APIS)
        await (self._readable if readable else self._app)(scope, receive, send)
