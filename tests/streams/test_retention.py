"""Who need not be remembered any more is forgotten; who must be is not, whatever the reason."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from commands.appointments import BookAppointment, CancelAppointment
from commands.erasure import PlaceLegalHold, SetRetention
from commands.loop import Desk
from commands.patients import RegisterPatient
from domain.events import ERASED
from domain.patient import HoldReason, HumanName, PatientDetails, PatientRegistered, stream
from domain.ports import FixedClock
from infra.erasures import Mark
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from streams import retention
from streams.erasure import Eraser
from streams.retention import Due
from tests.clinic import ADMIN, CHECKUP, DESK, LOCATION, ORGANIZATION, open_clinic
from tests.conftest import Database
from tests.people import credentials

# A Monday.
THEN = datetime(2010, 3, 1, 9, tzinfo=UTC)
DETAILS = PatientDetails(names=(HumanName(family="Example"),))


@pytest.fixture
async def keyring(database: Database, tmp_path: Path) -> AsyncIterator[PostgresKeyring]:
    keyring = PostgresKeyring(database.app, MasterKeyFile.at(tmp_path / "master.key"))
    yield keyring
    await keyring.close()


@pytest.fixture
async def log(database: Database, keyring: PostgresKeyring) -> AsyncIterator[PostgresEventLog]:
    async with PostgresEventLog(database.app, keyring) as opened:
        yield opened


@pytest.fixture
def desk(log: PostgresEventLog) -> Desk:
    """In the year 2010."""
    return Desk(log, FixedClock(THEN), TimeOrderedIds(), PublicHolidays(), credentials=credentials())


async def registered(desk: Desk) -> UUID:
    answer = await desk.handle(RegisterPatient(details=DETAILS), DESK, ORGANIZATION)
    return UUID(answer.content["patient_id"])


async def due_on(desk: Desk, day: date) -> dict[UUID, Due]:
    then = replace(desk, clock=FixedClock(datetime(day.year, day.month, day.day, 12, tzinfo=UTC)))
    return {one.patient_id: one async for one in retention.due(then, ORGANIZATION)}


async def test_everybody_is_due_in_their_time_and_then_forgotten(
    desk: Desk, log: PostgresEventLog, keyring: PostgresKeyring, database: Database
) -> None:
    clinic = await open_clinic(desk, patients=0)
    never_came, came, called_off, held = [await registered(desk) for _ in range(4)]

    async def book(patient_id: UUID, day: int, hour: int) -> UUID:
        start = THEN + timedelta(days=day, hours=hour)
        command = BookAppointment(
            patient_id=patient_id,
            provider_id=clinic.provider,
            location_id=LOCATION.id,
            visit_type_id=CHECKUP.id,
            start=start,
        )
        return UUID((await desk.handle(command, DESK, ORGANIZATION)).content["appointment_id"])

    await book(came, 2, 0)
    await book(came, 30, 0)
    await desk.handle(CancelAppointment(appointment_id=await book(called_off, 30, 2)), DESK, ORGANIZATION)
    await book(held, 30, 4)
    await desk.handle(PlaceLegalHold(patient_id=held, reason=HoldReason.AUTHORITY), ADMIN, ORGANIZATION)

    last = date(2010, 3, 31)
    assert await due_on(desk, date(2020, 2, 29)) == {}
    assert (await due_on(desk, date(2020, 3, 1))).keys() == {never_came, called_off}
    assert (await due_on(desk, date(2020, 3, 30))).keys() == {never_came, called_off}
    found = await due_on(desk, date(2020, 3, 31))
    assert found.keys() == {never_came, called_off, came, held}
    assert found[came] == Due(came, THEN.date(), last, date(2020, 3, 31), held=False)
    assert found[held].held
    assert found[never_came] == Due(never_came, THEN.date(), None, date(2020, 3, 1), held=False)

    await desk.handle(SetRetention(years_after_last_visit=12), ADMIN, ORGANIZATION)
    assert await due_on(desk, date(2020, 3, 31)) == {}
    await desk.handle(SetRetention(years_after_last_visit=10), ADMIN, ORGANIZATION)

    now = replace(desk, clock=FixedClock(datetime(2020, 3, 31, 12, tzinfo=UTC)))
    assert [await retention.erase(now, ORGANIZATION, one) for one in found.values()].count(False) == 1
    # The command decides by itself: whoever calls it a hold is not enough, and twice is once.
    assert not await retention.erase(now, ORGANIZATION, replace(found[held], held=False))
    assert not await retention.erase(now, ORGANIZATION, found[came])
    mark = Mark(database.app)
    await Eraser(now, log, keyring, mark).sweep()
    await mark.close()
    words = {}
    for key in found:
        told = (await log.load(ORGANIZATION, {stream(key): 0}))[stream(key)]
        assert isinstance(told[0].event, PatientRegistered)
        words[key] = told[0].event.details
    assert words == {never_came: ERASED, called_off: ERASED, came: ERASED, held: DETAILS}
    assert (await due_on(desk, date(2020, 3, 31))).keys() == {held}
