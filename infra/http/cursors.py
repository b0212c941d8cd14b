"""Cursors: where a listing goes on. In: what the next page needs. Out: an opaque, signed string, and back.

Signed, because what a cursor says goes into a question unchecked; bound to its listing and its organization, because
otherwise one could be carried over to another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json, to_json

from infra.http.problems import Refused

_TAG = 16
_LONGEST = 2048


class BadCursor(Refused):
    code = "bad_cursor"
    status = 400


class Cursors:
    """`secret` is at least 32 bytes, kept outside the database; every process that answers must have the same."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"daybook cursors v1", hashlib.sha256)

    def make(self, listing: str, organization: str, place: Sequence[Any]) -> str:
        """`place` is JSON-ready: the last row's sort key. `listing` names the question, with its filters where they
        must not change between pages."""
        body = to_json(list(place))
        return base64.urlsafe_b64encode(self._tag(listing, organization, body) + body).rstrip(b"=").decode()

    def read(self, listing: str, organization: str, cursor: str) -> list[Any]:
        """Raises `BadCursor` for one that was not made here, for this listing and organization."""
        if len(cursor) > _LONGEST:
            raise BadCursor("The cursor is not one of ours.")
        try:
            raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise BadCursor("The cursor is not one of ours.") from None
        tag, body = raw[:_TAG], raw[_TAG:]
        # Spare bits at the end of base64 would give one cursor several spellings.
        if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != cursor or not hmac.compare_digest(
            tag, self._tag(listing, organization, body)
        ):
            raise BadCursor("The cursor is not one of ours, or belongs to another listing.")
        place: list[Any] = from_json(body)
        return place

    def _tag(self, listing: str, organization: str, body: bytes) -> bytes:
        what = b"\x00".join((listing.encode(), organization.encode(), body))
        return hmac.digest(self._key, what, hashlib.sha256)[:_TAG]
