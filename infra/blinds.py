"""Keyed hashes that stand for words. In: a secret, what for, and words. Out: 32 bytes.

Implements `domain.ports.Blinds`. The key may never change: addresses are claimed in the log under their hashes.
"""

from __future__ import annotations

import hashlib
import hmac


class KeyedBlinds:
    """HMAC-SHA-256 (RFC 2104). Each part goes in with its length, so that no two lists of words are one text."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"daybook blinds v1", hashlib.sha256)

    def of(self, purpose: str, *words: str) -> bytes:
        parts = (part.encode("utf-8", "surrogatepass") for part in (purpose, *words))
        return hmac.digest(self._key, b"".join(len(part).to_bytes(4) + part for part in parts), hashlib.sha256)
