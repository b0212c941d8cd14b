"""Diary and free time in memory: how batches are cut, and how often they come, leaves no trace."""

from __future__ import annotations

import asyncio
import random
from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st

from domain import appointment, availability
from domain.ports import Recorded
from domain.slots import free_slots
from projections.as_of import AsOf
from projections.diary import AppointmentDiary
from projections.documents import DocumentModel
from projections.free_time import FreeTime
from projections.memory import MemoryStore
from tests.domain import clinic
from tests.domain.clinic import NOW
from tests.given import EVOLVE
from tests.projections.histories import ORGANIZATIONS, Step, at_random, histories, written
from tests.projections.story import batches

MODELS: tuple[type[DocumentModel], ...] = (AppointmentDiary, FreeTime)
seeds = st.integers(0, 10**6)
cuts = st.lists(st.integers(1, 9), max_size=40)


def test_the_histories_are_worth_telling() -> None:
    kinds = {type(one.event).__name__ for seed in range(50) for one in written(at_random(seed)).events}
    assert {"AppointmentRescheduled", "HoldLapsed", "ReservationConfirmed", "TimeReleased"} <= kinds
    assert {"AppointmentDeclined", "TimeUnblocked", "VisitCompleted", "ReminderSent"} <= kinds


@settings(max_examples=60, deadline=None)
@given(histories, cuts, seeds.map(random.Random))
def test_batches_and_repeats_leave_no_trace(told: list[Step], sizes: list[int], chance: random.Random) -> None:
    events = written(told).events

    async def fill() -> None:
        for kind in MODELS:
            whole, pieces = MemoryStore(), MemoryStore()
            await kind(whole).apply(events)
            model = kind(pieces)
            start = 0
            for batch in batches(events, sizes):
                await model.apply(batch)
                if chance.random() < 0.3:
                    # Another filler, that remembers nothing and is given old events again.
                    model = kind(pieces)
                    await model.apply(events[max(0, start - 5) : start + len(batch)])
                start += len(batch)
            assert pieces.kept == whole.kept
            assert pieces.lists == whole.lists
            assert await model.position() == len(events)

    asyncio.run(fill())


@settings(max_examples=60, deadline=None)
@given(histories, seeds.map(random.Random))
def test_parts_of_the_log_may_overtake_each_other(told: list[Step], chance: random.Random) -> None:
    events = written(told).events
    parts: dict[str, list[Recorded]] = {"0/3": [], "1/3": [], "2/3": []}
    for one in events:
        parts[f"{crc32(f'{one.organization}/{one.stream}'.encode()) % 3}/3"].append(one)

    async def fill() -> None:
        for kind in MODELS:
            whole, pieces = MemoryStore(), MemoryStore()
            await kind(whole).apply(events)
            model = kind(pieces)
            applied = dict.fromkeys(parts, 0)
            while any(applied[part] < len(parts[part]) for part in parts):
                part = chance.choice(sorted(parts))
                start = max(0, applied[part] - chance.randrange(3))
                applied[part] = min(len(parts[part]), start + 4)
                await model.apply(parts[part][start : applied[part]], part)
                if chance.random() < 0.1:
                    model = kind(pieces)
            assert pieces.kept == whole.kept
            assert pieces.lists == whole.lists
            # The parts dealt anew: what was applied in one is ignored in another, stream by stream.
            await kind(pieces).apply(events, "0/1")
            assert pieces.kept == whole.kept
            assert pieces.lists == whole.lists

    asyncio.run(fill())


@settings(max_examples=40, deadline=None)
@given(histories)
def test_what_is_read_back_is_what_the_domain_folds(told: list[Step]) -> None:
    events = written(told).events
    states: dict[tuple[str, str], object] = {}
    for one in events:
        key = (one.organization, one.stream)
        states[key] = EVOLVE[one.stream.split("/")[0]](states.get(key), one.event)

    async def compare() -> None:
        diary, free_time = AppointmentDiary(MemoryStore()), FreeTime(MemoryStore())
        await diary.apply(events)
        await free_time.apply(events)
        for (organization, _), state in states.items():
            match state:
                case appointment.Appointment():
                    row = await diary.appointment(organization, state.id)
                    assert row is not None
                    for name in ("status", "patient_id", "provider_id", "period", "occupied", "session_id", "seats"):
                        assert getattr(row, name) == getattr(state, name)
                    for name in ("location_id", "visit_type_id", "mode", "time_zone", "resources", "fee", "series_id"):
                        assert getattr(row, name) == getattr(state, name)
                    assert row.held_until == (state.held_until if row.held_until else None)
                case availability.Page():
                    page = await free_time.page(organization, state.resource_id, state.day)
                    assert page.value == state
                    assert list(page.value.entries) == list(state.entries)
        for organization in ORGANIZATIONS:
            providers, more = await free_time.providers(organization)
            assert more is None
            assert {one.value.id: one.value for one in providers} == {
                state.id: state  # type: ignore[attr-defined]
                for (where, stream), state in states.items()
                if where == organization and stream.startswith("provider/")
            }

    asyncio.run(compare())


@settings(max_examples=30, deadline=None)
@given(histories, st.floats(0, 1))
def test_the_past_answers_as_the_present_did(told: list[Step], share: float) -> None:
    log = written(told)
    position = round(share * len(log.events))

    async def compare() -> None:
        then = AppointmentDiary(MemoryStore()), FreeTime(MemoryStore())
        for model in then:
            await model.apply(log.events[:position])
        diary, free_time = then
        for organization in ORGANIZATIONS:
            past = AsOf(log, organization, position)
            day = clinic.span("00:00", "23:59")
            for owner in (clinic.DOCTOR, clinic.COLLEAGUE):
                assert await past.of_provider(owner, day) == await diary.of_provider(organization, owner, day)
                assert await past.provider(owner) == await free_time.provider(organization, owner)
                page = await past.page(owner, clinic.MONDAY)
                assert page == await free_time.page(organization, owner, clinic.MONDAY)
            assert await past.of_resource(clinic.ROOM, day) == await diary.of_resource(organization, clinic.ROOM, day)
            assert await past.resource(clinic.OTHER_ROOM) == await free_time.resource(organization, clinic.OTHER_ROOM)
            page_of = await diary.of_patient(organization, clinic.ANNA)
            assert await past.of_patient(clinic.ANNA) == page_of
            for row in page_of.appointments:
                assert await past.appointment(row.appointment_id) == row
                own = [
                    line
                    for line in await diary.history(organization, row.appointment_id, upto=position)
                    if line.name != "ReminderSent.v1"
                ]
                assert await past.history(row.appointment_id) == own
            if await free_time.provider(organization, clinic.DOCTOR) is not None:
                wish = clinic.wish(NOW)
                known = await free_time.provider(organization, clinic.DOCTOR)
                if known is None or wish.visit_type_id not in known.value.visit_types:
                    continue
                asked = (clinic.DOCTOR, wish, clinic.MONDAY, clinic.MONDAY, NOW)
                now = await free_time.diary(organization, *asked)
                before = await past.diary(*asked)
                days = (clinic.MONDAY, clinic.MONDAY)
                assert list(free_slots(before, wish, *days)) == list(free_slots(now, wish, *days))

    asyncio.run(compare())
