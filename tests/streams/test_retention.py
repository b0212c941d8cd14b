"""Who need not be remembered any more is forgotten; who must be is not, whatever the reason."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from commands.accounts import CloseAccount, RegisterAccount
from commands.appointments import BookAppointment, CancelAppointment
from commands.erasure import PlaceLegalHold, SetRetention, made_on
from commands.loop import Desk
from commands.patients import RegisterPatient
from commands.sign_in import SIGN_IN
from domain.access import Role
from domain.account import AccountRegistered, RegistrationLapsed
from domain.account import stream as account_stream
from domain.denial import STRANGERS, strangers
from domain.events import ERASED
from domain.origin import OriginSeen
from domain.origin import stream as origin_stream
from domain.patient import HoldReason, HumanName, PatientDetails, PatientRegistered, stream
from domain.ports import FixedClock
from domain.retention import STREAM, StrangersForgotten
from infra.erasures import Erasures, Mark
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.http.origins import Origins
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from streams import retention
from streams.erasure import Eraser
from streams.retention import Due
from tests.clinic import ADMIN, CHECKUP, DESK, LOCATION, ORGANIZATION, open_clinic
from tests.conftest import Database
from tests.people import OPERATOR, People, credentials

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


async def test_where_strangers_were_is_known_as_long_as_the_clinic_says_and_never_again(
    desk: Desk, log: PostgresEventLog, keyring: PostgresKeyring, database: Database
) -> None:
    async def knock(month: int) -> UUID:
        clock = FixedClock(datetime(2010, month, 31, 23, tzinfo=UTC))
        scope = {"type": "http", "client": ("192.0.2.7", 1), "headers": [(b"user-agent", b"an old telephone")]}
        return await Origins(log, clock, TimeOrderedIds(), bytes(32)).of(scope, ORGANIZATION, SIGN_IN)

    async def seen(origin_id: UUID) -> object:
        name = origin_stream(origin_id)
        (told,) = (await log.load(ORGANIZATION, {name: 0}))[name]
        assert isinstance(told.event, OriginSeen)
        return told.event.address, told.event.agent

    async def due(day: date) -> list[tuple[str, date]]:
        then = replace(desk, clock=FixedClock(datetime(day.year, day.month, day.day, tzinfo=UTC)))
        names = await keyring.names(ORGANIZATION, STRANGERS)
        return list(await retention.strangers_due(then, ORGANIZATION, names))

    march, may = await knock(3), await knock(5)
    # 45 CFR 164.316(b)(2)(i), from the end of the month on.
    assert await due(date(2016, 3, 31)) == []
    assert await due(date(2016, 4, 1)) == [("2010-03", date(2016, 4, 1))]
    policy = SetRetention(years_after_last_visit=10, months_of_strangers=13)
    await desk.handle(policy, ADMIN, ORGANIZATION)
    assert await due(date(2011, 4, 30)) == []
    assert await due(date(2011, 5, 1)) == [("2010-03", date(2011, 5, 1))]

    now = replace(desk, clock=FixedClock(datetime(2011, 5, 1, tzinfo=UTC)))
    assert not await retention.forget_strangers(now, ORGANIZATION, "2010-05"), "the command decides by itself"
    assert await retention.forget_strangers(now, ORGANIZATION, "2010-03")
    assert await retention.forget_strangers(now, ORGANIZATION, "2010-03"), "twice is once"
    events = [one.event for one in (await log.load(ORGANIZATION, {STREAM: 0}))[STREAM]]
    assert events[1:] == [StrangersForgotten(month="2010-03")]
    assert await seen(march) == ("192.0.2.7", "an old telephone"), "nobody has carried it out yet"

    mark = Mark(database.app)
    async with Erasures(log, keyring, mark):
        assert await seen(march) == (ERASED, ERASED), "this process has let go already"
    await Eraser(now, log, keyring, mark).sweep()
    await mark.close()
    assert await seen(march) == (ERASED, ERASED)
    assert await seen(may) == ("192.0.2.7", "an old telephone")
    assert await due(date(2011, 5, 1)) == []
    # A clock that goes wrong seals with no second key of the same month.
    key = strangers("2010-03")
    assert (await keyring.keys(ORGANIZATION, [key], create=True))[key] is None


async def test_whoever_registers_and_never_comes_back_is_forgotten_and_nobody_else(
    desk: Desk, log: PostgresEventLog, keyring: PostgresKeyring, database: Database
) -> None:
    clock = FixedClock(datetime.now(UTC))
    people = People(replace(desk, clock=clock), clock)

    async def register(name: str) -> UUID:
        told = await people.asked(RegisterAccount(email=f"{name}@example.org"))
        return UUID(told["account_id"])

    lost, closed, late = await register("lost"), await register("closed"), await register("late")
    came = (await people.patient("came@example.org")).account_id
    assert came is not None
    await people.staff(Role.FRONT_DESK)
    await people.asked(CloseAccount(account_id=closed), OPERATOR)
    registered = made_on(lost)

    async def due(days: int) -> list[tuple[UUID, date]]:
        clock.instant = datetime.combine(registered + timedelta(days), time(12), UTC)
        return [one async for one in retention.unverified_due(people.desk, ORGANIZATION)]

    since = registered + timedelta(30)
    assert await due(29) == []
    await register("late")
    assert await due(30) == [(lost, since), (closed, since)], "a link that was sent still holds"
    assert not await retention.forget_unverified(people.desk, ORGANIZATION, late), "the command decides by itself"
    assert not await retention.forget_unverified(people.desk, ORGANIZATION, came)
    assert await due(33) == [(lost, since), (closed, since), (late, since)]
    policy = SetRetention(years_after_last_visit=10, days_of_unverified=90)
    await people.asked(policy, replace(ADMIN, authenticated_at=clock.now()))
    assert await due(89) == []
    assert len(await due(90)) == 3

    for account_id in (lost, closed, lost):
        assert await retention.forget_unverified(people.desk, ORGANIZATION, account_id), "twice is once"
    assert [account_id for account_id, _ in await due(90)] == [late]

    async def email(account_id: UUID) -> object:
        told = (await log.load(ORGANIZATION, {account_stream(account_id): 0}))[account_stream(account_id)]
        assert isinstance(told[0].event, AccountRegistered)
        assert sum(isinstance(one.event, RegistrationLapsed) for one in told) <= 1
        return told[0].event.email

    mark = Mark(database.app)
    async with Erasures(log, keyring, mark):
        assert await email(lost) is ERASED, "this process has let go already"
    await Eraser(people.desk, log, keyring, mark).sweep()
    await mark.close()
    told = [await email(account_id) for account_id in (lost, closed, late, came)]
    assert told == [ERASED, ERASED, "late@example.org", "came@example.org"]
    assert (await keyring.keys(ORGANIZATION, [str(lost)], create=True))[str(lost)] is None
    # The address is free for whoever owns it.
    assert await register("lost") != lost
