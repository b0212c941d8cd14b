"""People are found by what is known of them, however it is written, and nothing that is kept tells who they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.appointment import Party
from domain.events import ERASED, Event
from domain.patient import (
    CorrectionSource,
    ErasureGround,
    HumanName,
    LegalHoldPlaced,
    PatientDetails,
    PatientDetailsCorrected,
    PatientRegistered,
    PersonErased,
    Phone,
    stream,
)
from domain.ports import Recorded
from infra.blinds import KeyedBlinds
from projections import people
from projections.memory import MemoryStore
from projections.people import People, Sought

ORGANIZATION = "elm-street"
BLINDS = KeyedBlinds(b"a key that only these tests know")
NOW = datetime(2026, 3, 2, tzinfo=UTC)


class Told:
    """A log of patients, and who is found in it."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.model = People(self.store, lambda: [BLINDS])
        self.log: list[Recorded] = []

    async def say(self, event: Event, organization: str = ORGANIZATION) -> None:
        name = stream(event.patient_id)  # type: ignore[attr-defined]
        version = 1 + sum(one.stream == name and one.organization == organization for one in self.log)
        position = len(self.log) + 1
        self.log.append(
            Recorded(position, organization, name, version, uuid4(), event, NOW, NOW, "desk", uuid4(), uuid4())
        )
        await self.model.apply(self.log[-1:])

    async def register(self, number: int, organization: str = ORGANIZATION, **details: object) -> UUID:
        key = UUID(int=number)
        said = PatientDetails.model_validate(details)
        await self.say(PatientRegistered(patient_id=key, details=said), organization)
        return key

    async def find(self, organization: str = ORGANIZATION, **sought: object) -> Sequence[UUID]:
        found, more = await self.model.find(organization, Sought(**sought))  # type: ignore[arg-type]
        assert not more
        return found


def name(family: str, *given_names: str) -> HumanName:
    return HumanName(family=family, given=given_names)


@pytest.mark.parametrize(
    ("family", "asked"),
    [
        ("Müller", "mul"),
        ("Müller", "Mueller"),
        ("Müller", "muller"),
        ("Müller", "MÜLLER"),
        ("Mueller", "müller"),
        ("Mu\u0308ller", "müll"),
        ("Strauß", "strauss"),
        ("O'Neill", "oneill"),
        ("O’Neill", "o'nei"),
        ("Sørensen", "sorensen"),
        ("Łukasiewicz", "lukasiewicz"),
        ("García Márquez", "marquez garcia"),
        ("Smith-Jones", "jones"),
        ("Li", "li"),
        ("Παπαδόπουλος", "παπαδοπουλος"),
        ("Ковальчук", "коваль"),
        ("Wolfeschlegelsteinhausen", "wolfeschlegelsteinhausen"),
    ],
)
async def test_a_name_is_found_however_it_is_written(family: str, asked: str) -> None:
    told = Told()
    key = await told.register(1, names=[name(family, "Anna")])
    await told.register(2, names=[name("Quackenbush", "Zebulonia")])
    assert await told.find(name=asked) == [key]
    assert Sought(name=asked).fits(PatientDetails(names=(name(family, "Anna"),)))


async def test_all_that_is_said_has_to_fit() -> None:
    told = Told()
    anna = await told.register(1, names=[name("Example", "Anna")], birth_date=date(1987, 5, 4))
    other = await told.register(2, names=[name("Example", "Anna")], birth_date=date(1990, 1, 1))
    bert = await told.register(3, names=[name("Example", "Bert")], phones=[Phone(number="+4930123456789")])
    assert await told.find(name="exam") == [anna, other, bert]
    assert await told.find(name="anna example") == [anna, other]
    assert await told.find(name="exam", birth_date=date(1987, 5, 4)) == [anna]
    assert await told.find(birth_date=date(1990, 1, 1)) == [other]
    for phone in ("+49 30 123456789", "0049 30 123456789", "(030) 123456-789"):
        assert await told.find(phone=phone) == [bert], phone
    assert await told.find(name="anna", phone="030 123456789") == []
    assert await told.find(name="quack") == []
    assert await told.find() == []
    assert await told.find("another", name="exam") == []


async def test_ends_that_are_alike_are_held_against_what_is_known() -> None:
    details = PatientDetails(phones=(Phone(number="+4930123456789"),), names=(name("Wolfeschlegelberg"),))
    assert Sought(phone="030 123456789").fits(details)
    assert not Sought(phone="0228 123456789").fits(details)
    assert Sought(name="wolfeschlegelb").fits(details)
    assert not Sought(name="wolfeschlegels").fits(details)
    assert not Sought(birth_date=date(1987, 5, 4)).fits(details)


async def test_a_correction_leads_by_the_new_and_no_longer_by_the_old() -> None:
    told = Told()
    key = await told.register(1, names=[name("Exampel")])
    right = PatientDetails(names=(name("Example"),))
    await told.say(
        PatientDetailsCorrected(patient_id=key, details=right, source=CorrectionSource.DOCUMENT, by=Party.FRONT_DESK)
    )
    assert await told.find(name="example") == [key]
    assert await told.find(name="exampel") == []


async def test_an_erased_person_leaves_no_token() -> None:
    told = Told()
    key = await told.register(1, names=[name("Quackenbush", "Zebulonia")], birth_date=date(1951, 2, 3))
    assert told.store.lists
    await told.say(LegalHoldPlaced(patient_id=key, hold_id=UUID(int=9), reason="litigation", matter=ERASED))  # type: ignore[arg-type]
    assert await told.find(name="quack") == [key]
    await told.say(PersonErased(patient_id=key, ground=ErasureGround.OBJECTION))
    assert told.store.lists == {}
    assert [json.loads(document)["tokens"] for document in told.store.kept.values()] == [[]]
    # A rebuild after the key is gone comes to the same.
    anew = Told()
    await anew.say(PatientRegistered(patient_id=key, details=ERASED))
    await anew.say(LegalHoldPlaced(patient_id=key, hold_id=UUID(int=9), reason="litigation", matter=ERASED))  # type: ignore[arg-type]
    await anew.say(PersonErased(patient_id=key, ground=ErasureGround.OBJECTION))
    assert (anew.store.kept, anew.store.lists) == (told.store.kept, told.store.lists)


async def test_it_is_rebuilt_beside_the_one_that_serves() -> None:
    told = Told()
    keys = [await told.register(number, names=[name("Example", f"Anna{number}")]) for number in (1, 2, 3)]
    await told.say(PersonErased(patient_id=keys[1], ground=ErasureGround.OBJECTION))
    before = dict(told.store.kept), dict(told.store.lists)
    filled = await told.model.next_generation()
    await filled.apply(told.log[:2])
    await filled.apply(told.log)
    assert await told.find(name="exam") == [keys[0], keys[2]]
    await told.model.take_over(filled)
    assert isinstance(told.model.store, MemoryStore)
    assert told.model.store is not told.store
    assert (told.model.store.kept, told.model.store.lists) == before
    assert await told.find(name="exam") == [keys[0], keys[2]]


async def test_what_is_kept_tells_nobody_who_anybody_is() -> None:
    told = Told()
    await told.register(1, names=[name("Quackenbush")], birth_date=date(1951, 2, 3))
    await told.register(1, "another", names=[name("Quackenbush")])
    kept = repr((told.store.kept, told.store.lists)).lower()
    assert "quack" not in kept
    assert "1951" not in kept
    # Nor who is known to two organizations, nor to whom without the key.
    tokens = [set(json.loads(document)["tokens"]) for document in told.store.kept.values()]
    assert tokens[0].isdisjoint(tokens[1])
    other = People(told.store, lambda: [KeyedBlinds(b"another key")])
    assert await other.find(ORGANIZATION, Sought(name="quack")) == ([], False)


async def test_a_name_that_many_share_is_looked_through_as_far_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "_CAP", 10)
    told = Told()
    for number in range(30):
        given_name = "Bert" if number == 25 else "Anna"
        await told.register(number + 1, names=[name("Smith", given_name)], birth_date=date(1950 + number, 1, 1))
    found, more = await told.model.find(ORGANIZATION, Sought(name="smith"))
    assert (len(found), more) == (10, True)
    # What few share leads to them, however many share the rest.
    assert await told.find(name="smith bert") == [UUID(int=26)]
    assert await told.find(name="smith anna", birth_date=date(1979, 1, 1)) == [UUID(int=30)]


letters = st.text(st.characters(categories=("Lu", "Ll", "Lo", "Mn", "Pd", "Zs")), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(words=letters, cut=st.integers(people.SHORTEST, 30))
async def test_every_beginning_of_every_word_leads_to_its_name(words: str, cut: int) -> None:
    ways = list(people.folded(words))
    if not words.strip() or not any(ways):
        return
    told = Told()
    key = await told.register(1, names=[HumanName(family=words)])
    details = PatientDetails(names=(HumanName(family=words),))
    assert await told.find(name=words) == [key]
    assert Sought(name=words).fits(details)
    for way in ways:
        for word in way:
            if len(word) >= people.SHORTEST:
                beginning = word[:cut]
                assert await told.find(name=beginning) == [key]
                assert Sought(name=beginning).fits(details)
