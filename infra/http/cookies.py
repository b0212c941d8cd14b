"""Cookies of our own pages. In: an answer and what is to be remembered. Out: a cookie that scripts, other origins and
plain connections never see.

Over TLS its name begins with `__Host-` (RFC 6265bis §4.1.3.2): browsers then hold it to this one host, so that no
sibling domain can plant one.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from infra.http.address import is_https

# What may stand in a cookie without quotes and escapes, which every reader undoes differently.
_VALUE = re.compile(r"[A-Za-z0-9._~-]{1,3800}")


class Cookie:
    """One cookie. `lifetime` is how long the browser keeps it; without, until it is closed.

    `lax` lets it come along when another site links to us; `strict` never.
    """

    def __init__(
        self, name: str, *, lifetime: timedelta | None = None, same_site: Literal["lax", "strict"] = "lax"
    ) -> None:
        self._name = name
        self._lifetime = lifetime
        self._same_site: Literal["lax", "strict"] = same_site

    def read(self, request: Request) -> str | None:
        """What was set; `None` for none, and for what we would never have set."""
        value = request.cookies.get(self._named(request))
        return value if value is not None and _VALUE.fullmatch(value) else None

    def set(self, request: Request, response: Response, value: str) -> None:
        """Raises `ValueError` for a value that is not made of letters, digits and `. _ ~ -`."""
        if not _VALUE.fullmatch(value):
            raise ValueError("a cookie holds letters, digits and . _ ~ -")
        response.set_cookie(
            self._named(request),
            value,
            max_age=None if self._lifetime is None else int(self._lifetime.total_seconds()),
            path="/",
            secure=is_https(request.scope),
            httponly=True,
            samesite=self._same_site,
        )

    def clear(self, request: Request, response: Response) -> None:
        response.delete_cookie(
            self._named(request), path="/", secure=is_https(request.scope), httponly=True, samesite=self._same_site
        )

    def _named(self, request: Request) -> str:
        return f"__Host-{self._name}" if is_https(request.scope) else self._name
