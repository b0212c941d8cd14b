"""Passwords: hashed slowly on purpose, a bounded number at once, and compared with those that are guessed first.

In: words. Out: Argon2id hashes (RFC 9106) with the parameters of the OWASP Password Storage Cheat Sheet. Implements
`domain.ports.Passwords`.
"""

from __future__ import annotations

import asyncio
import os
from functools import cached_property
from pathlib import Path
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type

# OWASP's first choice for Argon2id with 19 MiB; a hash takes some tens of milliseconds.
_MEMORY_KIB: Final = 19 * 1024
_ROUNDS: Final = 2
_LANES: Final = 1
_COMMON: Final = Path(__file__).with_name("common_passwords.txt")
# What people put before and after a word when they are told to make it longer.
_TRIMMINGS: Final = "0123456789!?.,*#$@%&+-_ "
_LEET: Final = str.maketrans({"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "i"})


class Argon2Passwords:
    """`at_once` hashes are made at the same time, each in a thread, for which the interpreter's lock is released; the
    rest wait, so that a flood of sign-ins takes neither all memory nor all cores."""

    def __init__(self, at_once: int | None = None) -> None:
        self._hasher = PasswordHasher(_ROUNDS, _MEMORY_KIB, _LANES, type=Type.ID)
        self._places = asyncio.Semaphore(at_once or os.cpu_count() or 1)

    async def hash(self, password: str) -> str:
        async with self._places:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def verify(self, hashed: str | None, password: str) -> bool:
        async with self._places:
            return await asyncio.to_thread(self.verified, hashed, password)

    def needs_rehash(self, hashed: str) -> bool:
        return self._hasher.check_needs_rehash(hashed)

    def is_common(self, password: str) -> bool:
        words = _plain(password)
        return words in self._common or _repeats(password) or _runs(password) or self._made_of_common(words)

    @cached_property
    def _common(self) -> frozenset[str]:
        return frozenset(_plain(line) for line in _COMMON.read_text("utf-8").splitlines() if line)

    @cached_property
    def _nobody(self) -> str:
        """The hash of no password, for accounts that are not there."""
        return self._hasher.hash(os.urandom(16).hex())

    def verified(self, hashed: str | None, password: str) -> bool:
        """As `verify`, in this thread."""
        # Made at the first sign-in of anybody, so that not even that one tells who is known.
        stand_in = self._nobody
        try:
            # The library compares in constant time.
            return self._hasher.verify(hashed or stand_in, password) and hashed is not None
        except (VerificationError, InvalidHashError):
            return False

    def _made_of_common(self, words: str) -> bool:
        """One common word after another: `passwordpassword`, `dragonmonkey`."""
        return any(words[:cut] in self._common and words[cut:] in self._common for cut in range(3, len(words) - 2))


def _plain(password: str) -> str:
    """The word that a password was made of: without what is put around it, and with letters for signs."""
    folded = password.casefold()
    return folded.strip(_TRIMMINGS).translate(_LEET) or folded


def _repeats(password: str) -> bool:
    """`abcabcabcabc`: a text stands in its own double, shifted, when it repeats a part of itself."""
    return password in (password + password)[1:-1]


_ROWS: Final = (
    "abcdefghijklmnopqrstuvwxyz",
    "0123456789" * 3,
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "qazwsxedcrfv",
    "1qaz2wsx3edc4rfv5tgb",
)


def _runs(password: str) -> bool:
    """Made of runs of the alphabet, of digits or of a keyboard's rows, of four and more, either way."""
    folded, place = password.casefold(), 0
    rows = [*_ROWS, *(row[::-1] for row in _ROWS)]
    while place < len(folded):
        longest = max((_common_start(folded[place:], row) for row in rows), default=0)
        if longest < 4:
            return len(folded) - place <= 2 and place > 0
        place += longest
    return True


def _common_start(text: str, row: str) -> int:
    start = row.find(text[:1])
    length = 0
    while 0 <= start + length < len(row) and length < len(text) and text[length] == row[start + length]:
        length += 1
    return length
