"""E-mail addresses as people write them. In: what somebody typed. Out: the address to write to, and its look.

Two addresses that look alike must not stand beside each other (Unicode TR 39 §4), so what is claimed in the log is the
look: letters of any script that pass for Latin ones are read as these.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from confusable_homoglyphs import confusables  # type: ignore[import-untyped]
from email_validator import EmailNotValidError, validate_email

from domain.account import AddressNotTaken
from domain.ports import Blinds

# RFC 5321 §4.5.3.1.3, less the angle brackets.
LONGEST = 254


@dataclass(frozen=True, slots=True)
class EmailAddress:
    """`words` is where letters go; `look` is what is claimed."""

    words: str
    look: str

    def blind(self, blinds: Blinds, organization: str) -> UUID:
        """What stands in the log for the address: a keyed hash, shaped as a UUIDv8 (RFC 9562 §5.8)."""
        return shaped(blinds.of("email", organization, self.look))


def shaped(blind: bytes) -> UUID:
    """A keyed hash as a UUIDv8."""
    number = int.from_bytes(blind[:16])
    number = number & ~(0xF << 76) | 0x8 << 76
    return UUID(int=number & ~(0x3 << 62) | 0x2 << 62)


def read(said: str) -> EmailAddress:
    """Raises `AddressNotTaken`. The name servers are not asked: a link that arrives proves more."""
    text = unicodedata.normalize("NFKC", said.strip())
    if len(text) > LONGEST:
        raise AddressNotTaken("this is not an e-mail address")
    try:
        valid = validate_email(text, check_deliverability=False)
    except EmailNotValidError:
        # Its words repeat what was sent.
        raise AddressNotTaken("this is not an e-mail address") from None
    for part in (valid.local_part, *valid.domain.split(".")):
        if confusables.is_dangerous(part.casefold(), preferred_aliases=["latin"]):
            raise AddressNotTaken("this address mixes letters of several scripts that look alike")
    return EmailAddress(f"{valid.local_part}@{valid.ascii_domain}", f"{_look(valid.local_part)}@{_look(valid.domain)}")


def _look(text: str) -> str:
    return "".join(map(_letter, unicodedata.normalize("NFKC", text.casefold())))


@lru_cache(maxsize=4096)
def _letter(letter: str) -> str:
    """The letter of ASCII that it passes for, or the letter itself."""
    if ord(letter) < 0x80:
        return letter
    found = confusables.is_confusable(letter, greedy=True) or []
    alike = (str(glyph["c"]) for one in found for glyph in one["homoglyphs"])
    plain = [glyph.casefold() for glyph in alike if len(glyph) == 1 and glyph.isascii() and glyph.isalpha()]
    return min(plain, default=letter)
