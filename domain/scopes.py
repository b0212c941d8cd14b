"""Scopes in the words of SMART App Launch 2.2: how far a token reaches. In: words. Out: what of them is granted.

`patient/Appointment.rs` reads and searches the appointments of one patient, `user/…` what the person reaches anyway,
`system/…` what a system does by itself. The letters are create, read, update, delete, search, in this order. Version 1
(`.read`, `.write`, `.*`) is understood and answered in version 2's words. Beside these stand OpenID Connect's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

LETTERS: Final = "cruds"
# Words without a resource: who signed in, for how long, and whose record is open.
PLAIN: Final = frozenset(
    {"openid", "profile", "email", "fhirUser", "launch/patient", "online_access", "offline_access"}
)
# Either asks for a refresh token: one that lasts as long as the person is there, or longer.
LASTING: Final = frozenset({"online_access", "offline_access"})
LONGEST: Final = 2000

_WORD = re.compile(r"(patient|user|system)/(\*|[A-Z][A-Za-z]{0,63})\.(read|write|\*|c?r?u?d?s?)")
_VERSION_1: Mapping[str, str] = {"read": "rs", "write": "cud", "*": LETTERS}


@dataclass(frozen=True, slots=True)
class Scope:
    """`context` is `patient`, `user` or `system`; `resource` a FHIR type or `*`; `letters` are some of `LETTERS`."""

    context: str
    resource: str
    letters: str

    def __str__(self) -> str:
        return f"{self.context}/{self.resource}.{self.letters}"


def parse(word: str) -> Scope | None:
    """The scope of a word about resources; None for every other word."""
    found = _WORD.fullmatch(word)
    if found is None or not found[3]:
        return None
    return Scope(found[1], found[2], _VERSION_1.get(found[3], found[3]))


def known(word: str) -> bool:
    return word in PLAIN or parse(word) is not None


def granted(wanted: Iterable[str], allowed: Iterable[str]) -> tuple[str, ...]:
    """As much of what is wanted as is allowed, in order and once each: `user/*.cruds`, where `user/Appointment.rs` is
    allowed, is `user/Appointment.rs`."""
    limits = list(allowed)
    bounds = [scope for word in limits if (scope := parse(word)) is not None]
    found: dict[str, None] = {}
    for word in wanted:
        asked = parse(word)
        if asked is None:
            if word in PLAIN and word in limits:
                found[word] = None
            continue
        for bound in bounds:
            if (common := _common(asked, bound)) is not None:
                found[str(common)] = None
    return tuple(found)


def _common(one: Scope, other: Scope) -> Scope | None:
    letters = "".join(letter for letter in LETTERS if letter in one.letters and letter in other.letters)
    if one.context != other.context or not letters:
        return None
    if other.resource in (one.resource, "*"):
        return Scope(one.context, one.resource, letters)
    return Scope(one.context, other.resource, letters) if one.resource == "*" else None
