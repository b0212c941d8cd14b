"""Which passwords are taken. In: what somebody chose. Out: its hash, or one refusal that says why not.

After NIST SP 800-63B-4 §3.1.1.2: length counts and composition does not; what is guessed first is refused, and so is
what is made of the address or of our name.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Final

from pydantic import Field, SecretStr

from commands.loop import Reading
from domain.account import PasswordTooWeak
from domain.events import Erased
from domain.ports import Credentials

SHORTEST: Final = 12
LONGEST: Final = 256

Password = Annotated[SecretStr, Field(max_length=LONGEST)]


def credentials_of(reading: Reading) -> Credentials:
    if reading.desk.credentials is None:
        raise RuntimeError("this desk was given no credentials; accounts need them")
    return reading.desk.credentials


def normal(password: str) -> str:
    """NIST SP 800-63B-4 §3.1.1.2: one form of each Unicode text, so that every keyboard makes the same bytes."""
    return unicodedata.normalize("NFKC", password)


async def hashed(password: SecretStr, email: str | Erased, credentials: Credentials) -> str:
    """Raises `PasswordTooWeak`."""
    words = normal(password.get_secret_value())
    _check(words, email, credentials)
    return await credentials.passwords.hash(words)


def _check(words: str, email: str | Erased, credentials: Credentials) -> None:
    if len(words) < SHORTEST:
        raise PasswordTooWeak(
            f"a password has at least {SHORTEST} characters; a few words make a good one", because="short"
        )
    folded = words.casefold()
    local, _, domain = ("", "", "") if isinstance(email, Erased) else email.partition("@")
    ours = [local, domain.partition(".")[0], credentials.name.casefold()]
    left = folded
    for part in sorted((part for part in ours if len(part) >= 4), key=len, reverse=True):
        left = left.replace(part, "")
    if left != folded and len(left) < SHORTEST:
        raise PasswordTooWeak("a password is not made of your address or of our name", because="guessable")
    if len(set(folded)) < 5 or credentials.passwords.is_common(folded):
        raise PasswordTooWeak("this password is one of those that are guessed first", because="common")
