"""People as staff look for them: by the beginning of a name, by birth date, by phone.

In: events of patients. Out: ids. What is kept are blind tokens alone, HMACs of folded words under a key that lies
outside every store, so that who reads the store reads no name; whoever is shown a name has it opened from the log at
that moment. What can be read off the tokens is how many people share one. They go when the person is erased.

| name | holds |
|---|---|
| `ORG/patient/ID` | the tokens that lead to a patient, with the version and position of their last event, as JSON |
| `ORG/token/TOKEN` | the ids of the patients that it leads to |
"""

from __future__ import annotations

import re
import unicodedata
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, ClassVar, Final, Self
from uuid import UUID

from pydantic_core import from_json, to_json

from domain.patient import HumanName, PatientDetails, PatientDetailsCorrected, PatientRegistered, PersonErased
from domain.ports import Blinds, Recorded
from projections.documents import DocumentModel, Kept, Line, Shape, Span, Store

# Names are found by their beginnings, from three letters on; shorter ones (Li, Ng) as they are.
SHORTEST: Final = 3
_LONGEST: Final = 10
# The end of a phone number, which is the same however it is dialled.
END: Final = 7
# So many ids are looked through for one question.
_CAP: Final = 2000

_WORD = re.compile(r"[^\W_]+")
# O'Neill is one word.
_APOSTROPHES: Final = str.maketrans(dict.fromkeys("'’ʼ`´"))
# What casefold and decomposition leave as it is, written as it is in passports without it (ICAO Doc 9303-3, section 6).
_PLAIN: Final = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "æ": "ae", "œ": "oe", "þ": "th"})
_WRITTEN_OUT: Final = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})

Document = dict[str, Any]
# The key that tokens are made with, and after it those under which some may still be kept.
Keys = Callable[[], Sequence[Blinds]]


def folded(words: str) -> Iterator[frozenset[str]]:
    """Each word in the ways in which it may be written: without accents, and with umlauts written out (`Müller` is
    `muller` and `mueller`)."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", words).casefold())
    for word in _WORD.findall(plain.translate(_APOSTROPHES)):
        yield frozenset({_bare(word), _bare(word.translate(_WRITTEN_OUT))} - {""})


def _bare(word: str) -> str:
    marked = unicodedata.normalize("NFKD", word)
    return "".join(letter for letter in marked if not unicodedata.combining(letter)).translate(_PLAIN)


def _said(name: HumanName) -> str:
    return " ".join((*name.given, name.family or ""))


def digits(number: str) -> str:
    return "".join(letter for letter in number if letter.isdecimal() and letter.isascii())


def dialled(number: str) -> str:
    """What of a number as somebody dials it is sure to end the international one: `0171 23…` is `17123…`."""
    return digits(number).lstrip("0")


@dataclass(frozen=True, slots=True)
class Sought:
    """What is known of whom one looks for; all of it has to fit. `phone` is as somebody writes it."""

    name: str = ""
    birth_date: date | None = None
    phone: str = ""

    def fits(self, details: PatientDetails) -> bool:
        """Whether they are meant: tokens say so of beginnings and ends, and of what was known a moment ago."""
        known = [word for name in details.names for word in folded(_said(name))]
        return (
            all(
                any(part.startswith(wanted) for word in known for part in word for wanted in said)
                for said in folded(self.name)
            )
            and (self.birth_date is None or self.birth_date == details.birth_date)
            and (not self.phone or any(digits(one.number).endswith(dialled(self.phone)) for one in details.phones))
        )


class Tokens:
    """Words to tokens. What kind of word it is goes in, so that one that is both leads apart."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def of(self, organization: str, details: PatientDetails) -> list[str]:
        """All that lead to somebody of whom this is known, in order."""
        told = {("name", beginning) for name in details.names for beginning in _beginnings(_said(name))}
        if details.birth_date is not None:
            told.add(("birth_date", details.birth_date.isoformat()))
        told |= {("phone", digits(one.number)[-END:]) for one in details.phones}
        newest = self._keys()[0]
        return sorted(_token(newest, organization, kind, word) for kind, word in told)

    def sought(self, organization: str, sought: Sought) -> list[list[str]]:
        """What a person must be led to by: one token of each list. Rows may still be kept under an older key."""
        asked = [[("name", word[:_LONGEST]) for word in sorted(ways)] for ways in folded(sought.name)]
        if sought.birth_date is not None:
            asked.append([("birth_date", sought.birth_date.isoformat())])
        if sought.phone:
            asked.append([("phone", dialled(sought.phone)[-END:])])
        keys = self._keys()
        return [[_token(key, organization, kind, word) for key in keys for kind, word in ways] for ways in asked]


def _token(key: Blinds, organization: str, kind: str, word: str) -> str:
    return urlsafe_b64encode(key.of("search", organization, kind, word)[:15]).decode()


def _beginnings(words: str) -> Iterator[str]:
    for ways in folded(words):
        for word in ways:
            if len(word) < SHORTEST:
                yield word
            for length in range(SHORTEST, min(len(word), _LONGEST) + 1):
                yield word[:length]


class PersonShape:
    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def fold(self, known: Document | None, recorded: Recorded) -> Document:
        event = recorded.event
        tokens: list[str] = known["tokens"] if known else []
        match event:
            case PatientRegistered() | PatientDetailsCorrected():
                told = event.details if isinstance(event.details, PatientDetails) else PatientDetails()
                tokens = self._tokens.of(recorded.organization, told)
            case PersonErased():
                tokens = []
        patient_id = recorded.stream.partition("/")[2]
        return {"id": patient_id, "position": recorded.position, "tokens": tokens, "version": recorded.version}

    def encode(self, kept: Kept[Document]) -> bytes:
        return to_json(kept.value)

    def decode(self, name: str, document: bytes) -> Kept[Document]:
        value = from_json(document)
        return Kept(value, value["version"], value["position"])

    def led_alike(self, before: Document, now: Document) -> bool:
        return bool(before["tokens"] == now["tokens"])

    def lines(self, organization: str, value: Document) -> Sequence[Line]:
        return [(f"{organization}/token/{token}", value["id"]) for token in value["tokens"]]


class People(DocumentModel):
    name = "people"
    SHAPES: ClassVar = {}

    def __init__(self, store: Store, keys: Keys) -> None:
        super().__init__(store)
        self._keys = keys
        self._tokens = Tokens(keys)
        self._shapes = {"patient": PersonShape(self._tokens)}

    @property
    def shapes(self) -> Mapping[str, Shape[Any]]:
        return self._shapes

    def notes(self, recorded: Recorded) -> Sequence[Line]:
        return ()

    async def next_generation(self) -> Self:
        return type(self)(await self.store.next_generation(), self._keys)

    async def find(self, organization: str, sought: Sought) -> tuple[list[UUID], bool]:
        """Who may be meant, longest known first, and whether there may be more than were looked through: whom the
        tokens lead to is to be held against `Sought.fits`, with what the log says. Nothing sought finds nobody."""
        wanted = [
            [f"{organization}/token/{token}" for token in tokens]
            for tokens in self._tokens.sought(organization, sought)
        ]
        if not wanted:
            return [], False
        lists = [name for names in wanted for name in names]
        lines = await self.store.lines([Span(name, limit=_CAP) for name in lists])
        found = dict(zip(lists, map(set, lines), strict=True))
        cut = {name for name, ids in found.items() if len(ids) == _CAP}
        # The list that leads to fewest is looked through, where it was read whole.
        wanted.sort(key=lambda names: (not cut.isdisjoint(names), sum(len(found[name]) for name in names)))
        candidates = sorted(set().union(*(found[name] for name in wanted[0])))
        for names in wanted[1:]:
            if cut.isdisjoint(names):
                candidates = [one for one in candidates if any(one in found[name] for name in names)]
            else:
                asked = [(one, Span(name, low=one, high=one)) for one in candidates for name in names]
                answers = await self.store.lines([span for _, span in asked])
                candidates = sorted({one for (one, _), there in zip(asked, answers, strict=True) if there})
        return [UUID(one) for one in candidates], not cut.isdisjoint(wanted[0])
