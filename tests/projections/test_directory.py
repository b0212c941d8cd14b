"""The directory on both of its stores: what it shows is what the rules say, however events and the clock got there."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID
from zlib import crc32

import pytest
from elasticsearch import AsyncElasticsearch
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.availability import Page, PageId
from domain.ports import FixedClock, Recorded
from domain.provider import (
    BookingRules,
    Location,
    LocationSet,
    Mode,
    ProviderRegistered,
    Specialty,
    WeeklyHours,
    WeeklyHoursPublished,
)
from domain.slots import free_slots
from domain.time import Period
from infra.local.elasticsearch import Elasticsearch
from projections import elastic
from projections.directory import (
    DAYS_AHEAD,
    NEVER,
    OPENINGS,
    Directory,
    Entry,
    FreeTimeBehind,
    Index,
    IndexAway,
    Key,
    Made,
    Question,
    Standing,
    folded,
)
from projections.documents import Kept
from projections.elastic import ElasticIndex
from projections.free_time import FreeTime
from projections.memory import MemoryStore
from projections.model import OutOfStep, Poison, Portion
from projections.sqlite import SqliteIndex
from tests.domain import clinic
from tests.domain.clinic import BEN, CHECKUP, CLINIC, COLLEAGUE, DOCTOR, FIRST, MONDAY, NOW, SCAN, SECOND, at, uid
from tests.given import Book
from tests.projections.histories import ORGANIZATIONS, Step, at_random, histories, written
from tests.projections.story import ORGANIZATION, Chronicle, MemoryLog, batches

STORES = ("sqlite", "elasticsearch")
TUESDAY = MONDAY + timedelta(days=1)
DAY = timedelta(days=1)

_numbers = count(1)


@pytest.fixture(params=STORES)
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Index]:
    """An empty index, on each of the stores."""
    if request.param == "sqlite":
        in_file = SqliteIndex(tmp_path / "directory.sqlite")
        yield in_file
        await in_file.close()
        return
    server: Elasticsearch = request.getfixturevalue("elasticsearch")
    async with searching(server) as found:
        yield found


class searching:
    """An empty index in Elasticsearch, which is removed when it is left."""

    def __init__(self, server: Elasticsearch) -> None:
        self.alias = f"directory-test-{next(_numbers)}"
        self.client = AsyncElasticsearch(server.url, request_timeout=10, max_retries=0)

    async def __aenter__(self) -> ElasticIndex:
        return ElasticIndex(self.client, alias=self.alias)

    async def __aexit__(self, *error: object) -> None:
        try:
            for name in await self.client.indices.get(index=f"{self.alias}-*", features=["aliases"]):
                await self.client.indices.delete(index=name)
            await self.client.options(ignore_status=404).indices.delete_index_template(name=self.alias)
        finally:
            await self.client.close()


async def filled(index: Index, events: Sequence[Recorded], now: datetime = NOW) -> Directory:
    free_time = FreeTime(MemoryStore())
    await free_time.apply(events)
    directory = Directory(index, free_time, FixedClock(now))
    await directory.apply(events)
    return directory


async def shown(index: Index, organizations: Sequence[str] = ORGANIZATIONS) -> dict[Key, Entry]:
    found = [one for where in organizations for one in await index.find(where, Question(limit=1000))]
    return {one.entry.key: one.entry for one in found}


async def anew(events: Sequence[Recorded], now: datetime) -> dict[Key, Entry]:
    """What a rebuild would show."""
    with tempfile.TemporaryDirectory() as folder:
        index = SqliteIndex(Path(folder) / "anew.sqlite")
        try:
            await filled(index, events, now)
            return await shown(index)
        finally:
            await index.close()


def starts(entry: Entry, visit_type_id: UUID = CHECKUP, location_id: UUID = CLINIC) -> list[datetime]:
    (found,) = [
        list(times.starts)
        for kind, times in entry.offers()
        if kind.id == visit_type_id and times.location_id == location_id
    ]
    return found


@pytest.fixture
def elm() -> Chronicle:
    return Chronicle(Book(NOW)).happens(clinic.clinic(), clinic.rooms())


async def test_next_free_times_are_those_that_can_be_booked(elm: Chronicle, index: Index) -> None:
    elm.happens(clinic.book(at("09:00"), as_=FIRST), clinic.hold(at("10:00"), patient_id=BEN, as_=SECOND))
    elm.happens(clinic.block(clinic.span("11:00", "16:00")))
    directory = await filled(index, elm.log.events)
    (found,) = await directory.find(ORGANIZATION, Question())
    assert found.entry.name == "Dr. Example"
    assert found.at == int(at("09:30").timestamp())
    assert starts(found.entry) == [at(when) for when in ("09:30", "10:30", "16:00", "16:15", "16:30")]
    for kind, times in found.entry.offers():
        wish = clinic.wish(NOW, visit_type_id=kind.id, patient_id=None, mode=kind.modes[0])
        if not kind.needs:
            assert list(times.starts) == clinic.free(elm.book, wish, MONDAY, TUESDAY)[:OPENINGS]
    # Which room is free is asked when the time is booked.
    assert starts(found.entry, SCAN) == starts(found.entry)


async def test_what_happens_to_a_provider_is_seen(elm: Chronicle, index: Index) -> None:
    log, free_time = elm.log, FreeTime(MemoryStore())
    directory = Directory(index, free_time, FixedClock(NOW))
    done = 0

    async def times() -> list[datetime]:
        nonlocal done
        await free_time.apply(log.events[done:])
        await directory.apply(log.events[done:])
        done = len(log.events)
        assert await directory.position() == done
        (found,) = await directory.find(ORGANIZATION, Question())
        return starts(found.entry)[:2]

    assert await times() == [at("09:00"), at("09:15")]
    elm.happens(clinic.book(at("09:00"), as_=FIRST))
    assert await times() == [at("09:30"), at("09:45")]
    elm.happens(clinic.move(at("13:00", TUESDAY), FIRST))
    assert await times() == [at("09:00"), at("09:15")]
    elm.happens(clinic.away(clinic.span("08:00", "12:00")))
    assert await times() == [at("12:00"), at("12:15")]
    elm.happens(clinic.open_on(MONDAY, "17:00-17:20"))
    assert await times() == [at("09:00", TUESDAY), at("09:15", TUESDAY)]


async def test_times_pass_with_the_clock(elm: Chronicle, index: Index) -> None:
    elm.happens(clinic.hold(at("09:00"), as_=FIRST), clinic.hold(at("09:30"), patient_id=BEN, as_=SECOND))
    directory = await filled(index, elm.log.events)

    async def times() -> list[datetime]:
        (found,) = await directory.find(ORGANIZATION, Question())
        return starts(found.entry)[:2]

    assert await times() == [at("10:00"), at("10:15")]
    assert await directory.refresh(NOW + timedelta(minutes=9)) == 0
    assert await directory.refresh(NOW + timedelta(minutes=10)) == 1
    assert await times() == [at("09:00"), at("09:15")]
    assert await directory.refresh(at("09:01")) == 1
    assert await times() == [at("09:15"), at("09:30")]
    assert await directory.refresh(at("16:40")) == 1
    assert await times() == [at("09:00", TUESDAY), at("09:15", TUESDAY)]
    assert await shown(index) == await anew(elm.log.events, at("16:40"))


async def test_notice_and_horizon_move_with_the_clock(index: Index) -> None:
    rules = BookingRules(minimum_notice_minutes=60, horizon_days=1, slot_step_minutes=30)
    elm = Chronicle(Book(NOW)).happens(clinic.clinic(rules=rules, weekly=clinic.every_day("09:00-09:30")))
    directory = await filled(index, elm.log.events)
    for when, expected in (
        ("08:00", [at("09:00")]),
        ("08:01", []),
        ("08:59", []),
        ("09:00", [at("09:00", TUESDAY)]),
        ("23:59", [at("09:00", TUESDAY)]),
    ):
        await directory.refresh(at(when))
        (found,) = await directory.find(ORGANIZATION, Question())
        assert starts(found.entry) == expected, when
        assert await shown(index) == await anew(elm.log.events, at(when))


async def test_with_every_day_a_day_more_is_looked_at(index: Index) -> None:
    elm = Chronicle(Book(NOW)).happens(clinic.clinic(weekly=WeeklyHours()))
    last = MONDAY + (DAYS_AHEAD + 1) * DAY
    elm.happens(clinic.open_on(last, "09:00-10:00"))
    directory = await filled(index, elm.log.events)
    opened = [at(f"09:{minute}", last) for minute in ("00", "15", "30")]
    for when, expected in ((at("23:59"), []), (at("00:00", TUESDAY), opened)):
        await directory.refresh(when)
        (found,) = await directory.find(ORGANIZATION, Question())
        assert starts(found.entry) == expected
        assert found.at == (int(expected[0].timestamp()) if expected else NEVER)


async def test_nobody_is_looked_at_for_an_event_that_can_change_nothing(elm: Chronicle, index: Index) -> None:
    log, free_time = elm.log, FreeTime(MemoryStore())
    directory = Directory(index, free_time, FixedClock(NOW))
    await free_time.apply(log.events)
    await directory.apply(log.events)
    known, done = await index.standing([(ORGANIZATION, DOCTOR)]), len(log.events)
    elm.happens(clinic.book(at("09:00", MONDAY + 30 * DAY), as_=FIRST))
    await free_time.apply(log.events[done:])
    assert await directory.apply(log.events[done:]) > 0
    assert await index.standing([(ORGANIZATION, DOCTOR), (ORGANIZATION, clinic.ANNA)]) == [*known, None]
    assert await directory.position() == len(log.events)
    # Old events again, to one that knows of them.
    stranger = Directory(index, free_time, FixedClock(NOW))
    assert await stranger.apply(log.events) == 0
    await stranger.mend(log.events)
    (standing,) = await index.standing([(ORGANIZATION, DOCTOR)])
    assert standing is not None
    assert standing.version == len(log.events)


async def test_it_waits_for_the_free_time(elm: Chronicle, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.directory._PATIENCE", 0.05)
    free_time = FreeTime(MemoryStore())
    directory = Directory(index, free_time, FixedClock(NOW))
    with pytest.raises(FreeTimeBehind):
        await directory.apply(elm.log.events)
    assert await directory.positions() == {}
    await free_time.apply(elm.log.events)
    assert await directory.apply(elm.log.events) == len(elm.log.events)


async def test_later_knowledge_wins_whatever_comes_last(index: Index) -> None:
    def made(version: int, name: str) -> Made:
        return Made(Entry(organization="elm", provider_id=DOCTOR, name=name), Standing(version, MONDAY, NOW))

    async def name() -> str:
        (found,) = await index.find("elm", Question())
        return found.entry.name

    for one in (made(7, "seventh"), made(5, "fifth")):
        assert not await index.write([one])
    assert await name() == "seventh"
    await index.write([made(7, "seventh again")])
    assert await name() == "seventh again"
    assert await index.standing([("elm", DOCTOR), ("oak", DOCTOR)]) == [Standing(7, MONDAY, NOW), None]
    assert await index.stale(NOW - timedelta(microseconds=1000), 5) == []
    assert await index.stale(NOW, 5) == [("elm", DOCTOR)]
    gone = Made(Entry(organization="elm", provider_id=DOCTOR, gone=True), Standing(8, MONDAY, None))
    await index.write([gone, made(7, "late")])
    assert await index.find("elm", Question()) == []
    assert await index.stale(NOW, 5) == []


async def test_progress_is_compared_and_set(index: Index) -> None:
    assert await index.positions() == {}
    await index.stand({"": (0, 3), "0/2": (0, 5)})
    assert await index.positions() == {"": 3, "0/2": 5}
    with pytest.raises(OutOfStep) as found:
        await index.stand({"0/2": (4, 9)})
    assert found.value.position == 5
    await index.stand({"0/2": (5, 9), "1/2": (0, 1)})
    assert await index.positions() == {"": 3, "0/2": 9, "1/2": 1}


async def test_two_fillers_of_a_part_never_move_it_back(elm: Chronicle, index: Index) -> None:
    events, free_time = elm.log.events, FreeTime(MemoryStore())
    await free_time.apply(events)
    other_index = index if isinstance(index, SqliteIndex) else ElasticIndex(index._client, alias=index._alias)  # type: ignore[attr-defined]
    one, other = (Directory(some, free_time, FixedClock(NOW)) for some in (index, other_index))
    await one.apply(events[:3])
    await other.apply(events[:6])
    with pytest.raises(OutOfStep):
        await one.apply(events[3:5])
    assert await one.apply(events) == len(events) - 6
    assert await index.positions() == {"": len(events)}


def profile(number: int, name: str, **more: Any) -> list[Any]:
    key = uid(0xD00 + number)
    happened = clinic.clinic(provider_id=key)
    return [ProviderRegistered(provider_id=key, name=name, **more), *happened[1:]]


async def test_questions(index: Index) -> None:
    skin, heart = Specialty(code="207N00000X", name="Dermatología"), Specialty(code="207RC0000X", name="Heart")
    elm = Chronicle(Book(NOW))
    elm.happens(profile(1, "One", specialties=(skin,), languages=("de", "en"), insurers=("Ärzte-Kasse",)))
    elm.happens(profile(2, "Two", specialties=(skin, heart), languages=("de-AT",), insurers=("Other",)))
    elm.happens(profile(3, "Three", specialties=(heart,), languages=("fr",)))
    branch = Location(id=clinic.BRANCH, name="Branch", time_zone="Europe/Berlin", latitude="52.5", longitude="13.4")
    elm.happens(LocationSet(provider_id=uid(0xD03), location=branch))
    hours = clinic.every_day("07:00-08:30")
    late = {"valid_from": date(2026, 3, 3), "hours": hours}
    elm.happens(WeeklyHoursPublished(provider_id=uid(0xD03), location_id=clinic.BRANCH, **late))
    # Nobody is ever free.
    elm.happens(ProviderRegistered(provider_id=uid(0xD04), name="Four", languages=("de",)))
    elm.happens(
        WeeklyHoursPublished(
            provider_id=uid(0xD02), location_id=CLINIC, valid_from=date(2026, 3, 2), hours=clinic.every_day()
        )
    )
    oak = Chronicle(Book(NOW), elm.log, "oak").happens(profile(1, "Oak", languages=("de",)))
    assert oak.log is elm.log
    directory = await filled(index, elm.log.events)

    async def names(organization: str = "elm", **asked: Any) -> list[str]:
        return [one.entry.name for one in await directory.find(organization, Question(**asked))]

    assert await names() == ["One", "Three", "Two", "Four"]
    assert await names("oak") == ["Oak"]
    assert await names("ash") == []
    assert await names(specialty="dermatologia") == ["One", "Two"]
    assert await names(specialty="207rc0000x") == ["Three", "Two"]
    assert await names(language="DE") == ["One", "Two", "Four"]
    assert await names(language="de-at") == ["Two"]
    assert await names(insurer="arzte-kasse") == ["One"]
    assert await names(specialty="207N00000X", language="de", insurer="OTHER") == ["Two"]
    assert await names(visit_type_id=CHECKUP) == ["One", "Three", "Two"]
    assert await names(visit_type_id=uid(404)) == []
    assert await names(visit_type_id=clinic.LONG, mode=Mode.TELEMEDICINE) == []
    assert await names(mode=Mode.TELEMEDICINE, location_id=clinic.BRANCH) == ["Three"]
    assert await names(visit_type_id=clinic.CLINIC_ONLY) == ["One", "Three", "Two"]
    assert await names(visit_type_id=clinic.CLINIC_ONLY, for_patients=True) == []
    (found,) = await directory.find("elm", Question(location_id=clinic.BRANCH))
    assert found.at == int(at("07:00", TUESDAY).timestamp())
    assert found.entry.locations == (*found.entry.locations[:1], branch)

    for asked in ({}, {"visit_type_id": CHECKUP}):
        place, seen = None, []
        for _ in range(6):
            page = await directory.find("elm", Question(**asked, after=place, limit=1))
            seen += [one.entry.name for one in page]
            if not page:
                break
            place = (page[-1].at, page[-1].entry.provider_id)
        assert seen == await names(**asked)
    assert (await directory.find("elm", Question(limit=9)))[-1].at == NEVER


def test_words_are_compared_without_accents_and_capitals() -> None:
    for told, plain in (
        ("Großmann", "grossmann"),
        ("  ŁÓDŹ  Ærø ", "lodz aero"),
        ("ÅNGSTRÖM", "angstrom"),
        ("İstanbul", "istanbul"),
        ("ﬁne", "fine"),
    ):
        assert folded(told) == plain


async def test_a_rebuild_serves_from_one_moment_to_the_next(index: Index) -> None:
    events = written(at_random(7, 300)).events
    directory = await filled(index, events[: len(events) // 2])
    free_time = directory._free_time
    await free_time.apply(events)
    before = await shown(index)
    made = await directory.next_generation()
    for batch in batches(events, [40] * 20):
        await made.apply(batch)
    assert await shown(index) == before
    assert await directory.position() == len(events) // 2
    await directory.take_over(made)
    assert await directory.position() == len(events)
    assert await shown(directory.index) == await anew(events, NOW)
    await directory.clean()
    assert await shown(directory.index) == await anew(events, NOW)
    assert await directory.apply(events) == 0
    # One that was begun and left.
    await (await directory.next_generation()).apply(events[:20])
    again = await directory.next_generation()
    assert await again.position() == 0
    await again.apply(events)
    await directory.take_over(again)
    await directory.clean()
    assert await shown(directory.index) == await anew(events, NOW)


async def test_what_the_rules_stumble_over_stops_before_that_event_alone(
    elm: Chronicle, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    elm.happens(clinic.clinic(provider_id=COLLEAGUE))
    elm.happens(clinic.book(at("09:00"), as_=FIRST))
    events, free_time = elm.log.events, FreeTime(MemoryStore())
    await free_time.apply(events)
    directory = Directory(index, free_time, FixedClock(NOW))

    def stumbling(diary: Any, *asked: Any) -> Any:
        if diary.provider.id == COLLEAGUE:
            raise ZeroDivisionError
        return free_slots(diary, *asked)

    monkeypatch.setattr("projections.directory.free_slots", stumbling)
    first = next(one.position for one in events if one.stream == f"provider/{COLLEAGUE}")
    with pytest.raises(Poison) as found:
        await directory.apply(events)
    assert (found.value.position, found.value.error) == (first, "ZeroDivisionError")
    assert await directory.position() == first - 1
    (only,) = await directory.find(ORGANIZATION, Question())
    assert only.entry.provider_id == DOCTOR
    assert starts(only.entry)[0] == at("09:30")
    with pytest.raises(Poison):
        await directory.apply_parts({"0/1": Portion(events, len(events))})
    monkeypatch.undo()
    rest = [one for one in events if one.position != first]
    assert await directory.apply(rest) == len(rest) - first + 1
    assert len(await shown(index)) == 2


async def test_an_entry_that_does_not_fit_the_mapping_stops_nobody_else(
    elm: Chronicle, elasticsearch: Elasticsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    elm.happens(clinic.clinic(provider_id=COLLEAGUE))
    events = elm.log.events
    first = next(one.position for one in events if one.stream == f"provider/{COLLEAGUE}")

    def misshapen(made: Made) -> dict[str, Any]:
        return document(made) | ({"unheard_of": 1} if made.entry.provider_id == COLLEAGUE else {})

    document = elastic._document
    monkeypatch.setattr(elastic, "_document", misshapen)
    async with searching(elasticsearch) as index:
        with pytest.raises(Poison) as found:
            await filled(index, events)
        assert (found.value.position, found.value.error) == (first, "EntryRefused")
        assert await index.positions() == {"": first - 1}
        assert [key for _, key in await shown(index)] == [DOCTOR]


async def test_an_index_that_is_gone_is_noticed_and_filled_again(elm: Chronicle, elasticsearch: Elasticsearch) -> None:
    events = elm.log.events
    search = searching(elasticsearch)
    async with search as index:
        directory = await filled(index, events)
        before = await shown(index)
        await search.client.indices.delete(index=f"{search.alias}-000001")
        assert await directory.find(ORGANIZATION, Question()) == []
        elm.happens(clinic.book(at("09:00", TUESDAY), as_=FIRST))
        await directory._free_time.apply(events)
        with pytest.raises((OutOfStep, IndexAway)):
            await directory.apply(events)
        assert await directory.position() == 0
        assert await directory.apply(events) == len(events)
        assert await shown(index) == await anew(events, NOW)
        assert before.keys() == (await shown(index)).keys()


async def test_a_damaged_file_is_begun_anew(elm: Chronicle, tmp_path: Path) -> None:
    events = elm.log.events
    index = SqliteIndex(tmp_path / "directory.sqlite")
    directory = await filled(index, events)
    before = await shown(index)
    await index._do(index._file.close)
    (tmp_path / "directory.sqlite").write_bytes(b"something else altogether" * 1000)
    directory.forget()
    assert await directory.position() == 0
    await directory.apply(events)
    assert await shown(index) == before
    await index.close()


class Halting(MemoryStore):
    """Answers late, so that others get in between."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance

    async def documents(self, names: Sequence[str]) -> Sequence[bytes | None]:
        await halt(self.chance)
        found = await super().documents(names)
        await halt(self.chance)
        return found


async def surely(work: Callable[..., Awaitable[Any]], *asked: Any) -> None:
    """As whoever fills does: what a store that is not ready refuses is tried again."""
    while True:
        try:
            await work(*asked)
        except (OutOfStep, IndexAway):
            await asyncio.sleep(0.05)
        else:
            return


async def halt(chance: random.Random) -> None:
    for _ in range(chance.choice((0, 0, 1, 3, 20))):
        await asyncio.sleep(0)


def by_part(events: Sequence[Recorded], parts: int) -> dict[str, list[Recorded]]:
    found: dict[str, list[Recorded]] = {f"{number}/{parts}": [] for number in range(parts)}
    for one in events:
        found[f"{crc32(f'{one.organization}/{one.stream}'.encode()) % parts}/{parts}"].append(one)
    return found


@settings(max_examples=25, deadline=None)
@given(histories, st.integers(0, 10**6).map(random.Random), st.integers(1, 4))
def test_parts_in_any_order_and_again_end_as_a_rebuild(told: list[Step], chance: random.Random, parts: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(interleaved(SqliteIndex(Path(folder) / "directory.sqlite"), written(told), chance, parts))


@pytest.mark.parametrize("seed", range(4))
async def test_parts_in_any_order_end_as_a_rebuild_in_elasticsearch(elasticsearch: Elasticsearch, seed: int) -> None:
    async with searching(elasticsearch) as index:
        await interleaved(index, written(at_random(seed, 80)), random.Random(seed), 3)


async def interleaved(index: Any, log: MemoryLog, chance: random.Random, parts: int) -> None:
    """A worker for each part, the free time by parts before them, a clock that goes on, and somebody who refreshes: all
    at once, each at its own pace, with repeats and workers that begin anew."""
    events, clock = log.events, FixedClock(NOW)
    free_time = FreeTime(Halting(chance))
    dealt = by_part(events, parts)
    cuts = sorted({chance.randrange(len(events) + 1) for _ in range(6)} | {len(events)})

    def worker() -> Directory:
        if isinstance(index, ElasticIndex):
            return Directory(ElasticIndex(index._client, alias=index._alias), free_time, clock)
        return Directory(index, free_time, clock)

    async def fill_free_time() -> None:
        for cut in cuts:
            for part in chance.sample(sorted(dealt), len(dealt)):
                await halt(chance)
                await free_time.apply([one for one in dealt[part] if one.position <= cut], part, cut)

    async def work(part: str) -> None:
        directory = worker()
        for cut in cuts:
            await halt(chance)
            if chance.random() < 0.3:
                directory = worker()
            batch = [one for one in dealt[part] if one.position <= cut]
            if chance.random() < 0.3:
                await surely(directory.apply, batch[: chance.randrange(60)], part)
            await surely(directory.apply, batch, part, cut)
            if chance.random() < 0.3:
                await surely(worker().mend, batch, part)

    async def go_on() -> None:
        directory = worker()
        for _ in range(4):
            await halt(chance)
            clock.instant += timedelta(minutes=chance.randrange(90))
            await surely(directory.refresh)

    try:
        await asyncio.gather(fill_free_time(), go_on(), *(work(part) for part in dealt))
        directory = worker()
        assert await directory.position() == len(events)
        await directory.refresh()
        assert await shown(index) == await anew(events, clock.instant)
        until = clock.instant + chance.choice((timedelta(minutes=5), timedelta(hours=9), DAY))
        await directory.refresh(until)
        assert await shown(index) == await anew(events, until)
    finally:
        if isinstance(index, SqliteIndex):
            await index.close()


class Interrupted(FreeTime):
    """Right after somebody has read pages of it, `then` happens."""

    then: Callable[[], Awaitable[None]] | None = None

    async def pages(self, organization: str, pages: Sequence[PageId]) -> Mapping[PageId, Kept[Page] | None]:
        found = await super().pages(organization, pages)
        then, self.then = self.then, None
        if then is not None:
            await then()
        return found


async def test_an_entry_made_beside_an_event_that_did_not_matter_before(index: Index) -> None:
    """One filler lists Thursday for the first time, without what another filler has just passed over for its being on
    Thursday."""
    hours, kinds = clinic.every_day("09:00-10:00"), clinic.VISIT_TYPES[:1]
    elm = Chronicle(Book(NOW)).happens(clinic.clinic(weekly=hours, visit_types=kinds))
    free_time, clock = Interrupted(MemoryStore()), FixedClock(NOW)
    one, other = (Directory(index, free_time, clock) for _ in range(2))
    told = len(elm.log.events)
    await free_time.apply(elm.log.events, "0/2", told)
    await free_time.apply([], "1/2", told)
    await one.apply(elm.log.events, "0/2", told)
    assert starts((await shown(index))["elm", DOCTOR])[-1] == at("09:15", MONDAY + DAY)
    until = at("10:00", MONDAY + DAY)
    elm.happens(clinic.block(Period(at("09:00"), until)))
    first = elm.log.events[told:]
    elm.happens(clinic.block(clinic.span("08:00", "18:00", MONDAY + 3 * DAY), block_id=uid(0x401)))
    second = elm.log.events[told + len(first) :]
    await free_time.apply(first, "0/2", len(elm.log.events))

    async def meanwhile() -> None:
        await free_time.apply(second, "1/2", len(elm.log.events))
        await other.apply(second, "1/2", len(elm.log.events))

    free_time.then = meanwhile
    await free_time.apply([], "1/2", first[-1].position)
    await one.apply(first, "0/2", len(elm.log.events))
    assert await shown(index) == await anew(elm.log.events, NOW)
    assert starts((await shown(index))["elm", DOCTOR])[3:] == [
        at("09:00", MONDAY + 4 * DAY),
        at("09:15", MONDAY + 4 * DAY),
    ]


@settings(max_examples=25, deadline=None)
@given(histories, st.lists(st.integers(1, 9), max_size=40), st.integers(0, 10**6).map(random.Random))
def test_batches_and_repeats_leave_no_trace(told: list[Step], sizes: list[int], chance: random.Random) -> None:
    events, clock = written(told).events, FixedClock(NOW)

    async def fill(path: Path) -> None:
        index, free_time = SqliteIndex(path), FreeTime(MemoryStore())
        directory = Directory(index, free_time, clock)
        for batch in batches(events, sizes):
            await free_time.apply(events[: batch[-1].position + chance.randrange(3)])
            await directory.apply(batch)
            if chance.random() < 0.3:
                clock.instant += timedelta(minutes=chance.randrange(30))
                directory = Directory(index, free_time, clock)
                await directory.apply(batch)
        await directory.refresh()
        assert await shown(index) == await anew(events, clock.instant)
        await index.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(fill(Path(folder) / "directory.sqlite"))


@settings(max_examples=25, deadline=None)
@given(histories, st.floats(0, 0.999))
def test_an_entry_is_right_as_long_as_it_says(told: list[Step], share: float) -> None:
    events = written(told).events

    async def look(path: Path) -> None:
        index = SqliteIndex(path)
        await filled(index, events)
        entries = await shown(index)
        for key, standing in zip(entries, await index.standing(list(entries)), strict=True):
            assert standing is not None
            until = min(standing.good_until or NOW + 2 * DAY, NOW + 2 * DAY)
            then = await anew(events, NOW + share * (until - NOW))
            assert then[key] == entries[key]
        await index.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(look(Path(folder) / "directory.sqlite"))
