"""Whether a form that a browser sends was sent from a page of ours. In: a request and its form's token. Out: nothing,
or a refusal.

Two independent signs are asked: the browser's own word about where the request began (`Sec-Fetch-Site`, or else
`Origin`), and a token that was put into our form and is bound to a cookie of this browser. The token is an HMAC over
the cookie's value, the "signed double-submit cookie" of OWASP's CSRF cheat sheet, so nothing has to be kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from starlette.requests import Request

from infra.http.address import is_https
from infra.http.problems import Refused

# The name of the form's hidden field.
FIELD: Final = "csrf"

# For the pages that hold a form. With `no-referrer` browsers send `Origin: null` from them (Fetch §3.2), which tells
# nothing; to other origins this one is as silent.
FORM_HEADERS: Final[Mapping[str, str]] = MappingProxyType({"Referrer-Policy": "same-origin"})

_SALT = 16


class CrossSite(Refused):
    code = "cross_site"
    status = 403

    def __init__(self) -> None:
        super().__init__("This was not sent from a page of ours that is still open. Load the page again.")


class Forms:
    """`secret` is at least 32 bytes, and the same in every process that answers."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"daybook forms v1", hashlib.sha256)

    def token(self, cookie: str) -> str:
        """For a form of the browser that has this cookie: of its session, or, before there is one, a random value.
        Another one each time, so that compressed answers give nothing away (BREACH)."""
        salt = secrets.token_bytes(_SALT)
        return _text(salt + self._tag(salt, cookie))

    def check(self, request: Request, cookie: str | None, token: object) -> None:
        """`token` is the form's field, as it came. Raises `CrossSite`."""
        if not _from_here(request) or not cookie or not isinstance(token, str) or not self._made(token, cookie):
            raise CrossSite

    def _made(self, token: str, cookie: str) -> bool:
        try:
            raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), b"-_", validate=True)
        except ValueError:
            return False
        return hmac.compare_digest(raw[_SALT:], self._tag(raw[:_SALT], cookie))

    def _tag(self, salt: bytes, cookie: str) -> bytes:
        return hmac.digest(self._key, salt + cookie.encode(), hashlib.sha256)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _from_here(request: Request) -> bool:
    """What the browser says; that it says nothing is no sign of anything, and left to the token."""
    began = request.headers.get("sec-fetch-site")
    if began is not None:
        return began == "same-origin"
    origin = request.headers.get("origin")
    scheme = "https" if is_https(request.scope) else "http"
    return origin is None or origin == f"{scheme}://{request.headers.get('host', '')}"
