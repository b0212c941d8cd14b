"""What a stranger carries for us and can neither read nor change: codes, refresh tokens, cookies.

In: what is to be remembered, what for, and until when. Out: an opaque string, and back. Encrypted and not only signed,
since these stand in addresses and browsers and name accounts.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic_core import from_json, to_json

_NONCE: Final = 12
_UNTIL: Final = 8
LONGEST: Final = 4096


class Seals:
    """AES-256-GCM with a key for each purpose, so that what was made for one is nothing for another. `secret` is at
    least 32 bytes, kept outside the database; every process that answers must have the same."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._keys: dict[str, AESGCM] = {}

    def seal(self, purpose: str, content: Mapping[str, Any], until: datetime) -> str:
        """`content` is JSON-ready."""
        clear = int(until.timestamp()).to_bytes(_UNTIL, "big") + to_json(content)
        nonce = os.urandom(_NONCE)
        return base64.urlsafe_b64encode(nonce + self._key(purpose).encrypt(nonce, clear, None)).rstrip(b"=").decode()

    def open(self, purpose: str, text: str | None, now: datetime) -> dict[str, Any] | None:
        """What was sealed; None for what was not made here, or not for this purpose, and for what has run out."""
        if not text or len(text) > LONGEST:
            return None
        try:
            raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
            clear = self._key(purpose).decrypt(raw[:_NONCE], raw[_NONCE:], None)
        except (ValueError, InvalidTag):
            return None
        if now.timestamp() >= int.from_bytes(clear[:_UNTIL], "big"):
            return None
        content: dict[str, Any] = from_json(clear[_UNTIL:])
        return content

    def _key(self, purpose: str) -> AESGCM:
        key = self._keys.get(purpose)
        if key is None:
            made = hmac.digest(self._secret, b"daybook seals v1 " + purpose.encode(), hashlib.sha256)
            key = self._keys[purpose] = AESGCM(made)
        return key
