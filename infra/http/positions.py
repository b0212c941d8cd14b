"""Positions of the log as strangers see them: opaque strings. In: a position. Out: a string, and back.

Encoded and checked, not secret: a position tells how many events all organizations have together, so it is enciphered
with a key of this installation; what was not made here is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from infra.http.problems import Refused

_BLOCK = 16


class BadPosition(Refused):
    code = "bad_position"
    status = 400


class Positions:
    """One AES block a position: eight zero bytes, which nothing else deciphers to, and the number."""

    def __init__(self, secret: bytes) -> None:
        key = hmac.digest(secret, b"daybook positions v1", hashlib.sha256)
        # A single block, so ECB is the bare cipher: equal positions look equal, which is meant. No block depends on the
        # one before it, so one context serves them all.
        cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305
        self._encrypt = cipher.encryptor().update
        self._decrypt = cipher.decryptor().update

    def show(self, position: int) -> str:
        block = self._encrypt(bytes(8) + position.to_bytes(8, "big"))
        return base64.urlsafe_b64encode(block).rstrip(b"=").decode()

    def read(self, text: str) -> int:
        """Raises `BadPosition` for a string that was not made here."""
        try:
            block = base64.b64decode(text.encode("ascii") + b"==", b"-_", validate=True)
        except (binascii.Error, ValueError):
            block = b""
        if len(block) != _BLOCK:
            raise BadPosition("The position is not one of ours.")
        clear = self._decrypt(block)
        position = int.from_bytes(clear[8:], "big")
        # Also refuses what deciphers to no position at all, and a second spelling of the same bytes.
        if self.show(position) != text:
            raise BadPosition("The position is not one of ours.")
        return position

    def read_after(self, header: str | None) -> int:
        """What a `Read-After` header asks for; 0 where there is none."""
        return 0 if header is None else self.read(header.strip())
