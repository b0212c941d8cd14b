"""An erased person's account ends with them, and so does every key that sealed a word of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

import commands.erasure
from commands.accounts import ChangeRole, CloseOwnAccount, CreateAccount
from commands.appointments import BookAppointment
from commands.disclosures import RecordDisclosure
from commands.erasure import ErasePerson
from commands.loop import Desk
from commands.patients import RegisterPatient
from domain import account, appointment
from domain.access import Actor, Role
from domain.account import AccountClosed, ClosingReason
from domain.appointment import AppointmentBooked, AppointmentCancelled
from domain.disclosure import Means
from domain.events import ERASED
from domain.patient import AlreadyErased, ErasureGround, HumanName, PatientDetails
from domain.ports import LogUnavailable
from domain.provider import BookingRules
from domain.purpose import Purpose
from infra import erasures
from infra.erasures import Erasures, Mark
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from streams import erasure
from streams.erasure import Eraser
from tests.clinic import ADMIN, CHECKUP, DESK, LOCATION, ORGANIZATION, in_days, open_clinic
from tests.conftest import Database
from tests.people import OPERATOR, PASSWORD, credentials

DETAILS = PatientDetails(names=(HumanName(family="Example"),))


@pytest.fixture
def master(tmp_path: Path) -> MasterKeyFile:
    return MasterKeyFile.at(tmp_path / "master.key")


@pytest.fixture
async def log(database: Database, master: MasterKeyFile) -> AsyncIterator[PostgresEventLog]:
    keyring = PostgresKeyring(database.app, master)
    async with PostgresEventLog(database.app, keyring) as opened:
        yield opened
    await keyring.close()


@pytest.fixture
def desk(log: PostgresEventLog) -> Desk:
    return Desk(log, log.clock, TimeOrderedIds(), PublicHolidays(), credentials=credentials())


@asynccontextmanager
async def erasing(database: Database, master: MasterKeyFile, desk: Desk) -> AsyncIterator[Eraser]:
    """Another process."""
    keyring, mark = PostgresKeyring(database.app, master), Mark(database.app)
    async with PostgresEventLog(database.app, keyring) as log:
        yield Eraser(desk, log, keyring, mark)
    await mark.close()
    await keyring.close()


async def registered(desk: Desk) -> UUID:
    answer = await desk.handle(RegisterPatient(details=DETAILS), DESK, ORGANIZATION)
    return UUID(answer.content["patient_id"])


async def with_account(desk: Desk, patient_id: UUID, email: str) -> UUID:
    command = CreateAccount(email=email, role=Role.PATIENT, password=PASSWORD, patient_id=patient_id)
    return UUID((await desk.handle(command, OPERATOR, ORGANIZATION)).content["account_id"])


async def erase(desk: Desk, patient_id: UUID) -> str:
    command = ErasePerson(patient_id=patient_id, ground=ErasureGround.OBJECTION)
    outcome: str = (await desk.handle(command, ADMIN, ORGANIZATION)).content["outcome"]
    return outcome


def without_key(database: Database) -> set[str]:
    """Who had a key, or never may have one any more."""
    with psycopg.connect(database.superuser) as connection:
        return {row[0] for row in connection.execute("SELECT person FROM data_keys WHERE wrapped = ''").fetchall()}


async def test_every_account_that_acted_as_the_person_ends_with_them(
    desk: Desk, log: PostgresEventLog, database: Database, master: MasterKeyFile
) -> None:
    anna, bert = await registered(desk), await registered(desk)
    earlier = await with_account(desk, anna, "anna@example.org")
    own = Actor("anna", Role.PATIENT, patient_id=anna, account_id=earlier, authenticated_at=datetime.now(UTC))
    await desk.handle(CloseOwnAccount(), own, ORGANIZATION)
    present = await with_account(desk, anna, "anna@example.com")
    berts = await with_account(desk, bert, "bert@example.org")

    streams = {account.stream(key): key for key in (earlier, present, berts)}

    async def emails(log: PostgresEventLog) -> dict[UUID, object]:
        found = await log.load(ORGANIZATION, dict.fromkeys(streams, 0))
        return {key: found[name][0].event.email for name, key in streams.items()}  # type: ignore[attr-defined]

    # A process that knows all keys already, and hears of it.
    mark = Mark(database.app)
    knowing = PostgresKeyring(database.app, master)
    async with PostgresEventLog(database.app, knowing) as other, Erasures(other, knowing, mark):
        assert ERASED not in (await emails(other)).values()
        assert await erase(desk, anna) == "erased"
        async with erasing(database, master, desk) as eraser:
            await eraser.sweep()
            await eraser.sweep()
        async with asyncio.timeout(60):
            while (await emails(other))[earlier] is not ERASED:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        assert await emails(other) == {earlier: ERASED, present: ERASED, berts: "bert@example.org"}
    await knowing.close()
    assert without_key(database) == {str(anna), str(earlier), str(present)}
    stream = account.stream(present)
    told = [one.event for one in (await log.load(ORGANIZATION, {stream: 0}))[stream]]
    closed = [event for event in told if isinstance(event, AccountClosed)]
    assert [event.reason for event in closed] == [ClosingReason.PERSON_ERASED]

    reader = PostgresKeyring(database.app, master)
    async with PostgresEventLog(database.app, reader) as fresh:
        assert await emails(fresh) == {earlier: ERASED, present: ERASED, berts: "bert@example.org"}
    await reader.close()
    await mark.close()


async def test_an_account_that_has_become_a_colleagues_keeps_its_key(
    desk: Desk, log: PostgresEventLog, database: Database, master: MasterKeyFile
) -> None:
    anna = await registered(desk)
    promoted = await with_account(desk, anna, "anna@example.org")
    await desk.handle(ChangeRole(account_id=promoted, role=Role.FRONT_DESK), OPERATOR, ORGANIZATION)
    assert await erase(desk, anna) == "erased"
    async with erasing(database, master, desk) as eraser:
        await eraser.sweep()
    assert without_key(database) == {str(anna)}
    stream = account.stream(promoted)
    told = [one.event for one in (await log.load(ORGANIZATION, {stream: 0}))[stream]]
    assert told[0].email == "anna@example.org"  # type: ignore[attr-defined]
    assert not any(isinstance(event, AccountClosed) for event in told)


async def test_nobody_gets_an_account_as_somebody_who_was_forgotten(desk: Desk) -> None:
    anna = await registered(desk)
    assert await erase(desk, anna) == "erased"
    with pytest.raises(AlreadyErased):
        await with_account(desk, anna, "anna@example.org")


async def test_a_visit_that_was_booked_in_the_very_moment_is_called_off(
    desk: Desk, database: Database, master: MasterKeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = await open_clinic(desk, patients=1, rules=BookingRules(cancel_notice_minutes=60 * 24 * 30))
    booked: list[UUID] = []

    async def look(desk: Desk, organization: str, patient_id: UUID, now: datetime) -> None:
        """Somebody books between this look and the save."""
        command = BookAppointment(
            patient_id=patient_id,
            provider_id=clinic.provider,
            location_id=LOCATION.id,
            visit_type_id=CHECKUP.id,
            start=in_days(9),
        )
        booked.append(UUID((await desk.handle(command, DESK, organization)).content["appointment_id"]))

    with monkeypatch.context() as rival:
        rival.setattr(commands.erasure, "last_visit", look)
        assert await erase(desk, clinic.patient) == "erased"
    async with erasing(database, master, desk) as eraser:
        await eraser.sweep()
        await eraser.sweep()
    stream = appointment.stream(booked[0])
    told = [one.event for one in (await desk.log.load(ORGANIZATION, {stream: 0}))[stream]]
    assert [type(event) for event in told] == [AppointmentBooked, AppointmentCancelled]


async def test_what_a_command_under_way_put_back_is_dropped_again(
    desk: Desk, log: PostgresEventLog, database: Database, master: MasterKeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasures, "AGAIN", 0.2)
    told: list[tuple[str, str]] = []
    log.forgotten.append(lambda *who: told.append(who))
    keyring, mark = PostgresKeyring(database.app, master), Mark(database.app)
    anna = await registered(desk)
    async with Erasures(log, keyring, mark):
        await erase(desk, anna)
        async with asyncio.timeout(60):
            while len(told) < 2:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
    assert told == [(ORGANIZATION, str(anna))] * 2
    await mark.close()
    await keyring.close()


async def test_a_store_that_is_away_is_waited_for_and_nothing_is_skipped(
    desk: Desk, database: Database, master: MasterKeyFile
) -> None:
    people = [await registered(desk) for _ in range(3)]
    for one in people:
        await erase(desk, one)
    async with erasing(database, master, desk) as eraser:
        forget, calls = eraser.keys.forget, 0

        async def flaky(organization: str, person: str) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise LogUnavailable("away")
            await forget(organization, person)

        eraser.keys.forget = flaky  # type: ignore[method-assign]
        with pytest.raises(LogUnavailable):
            await eraser.sweep()
        assert len(without_key(database)) == 1
        await eraser.sweep()
    assert without_key(database) == {str(one) for one in people}


async def test_the_mark_follows_a_log_in_which_nobody_is_erased(
    desk: Desk, log: PostgresEventLog, database: Database, master: MasterKeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "BITE", 3)
    async with erasing(database, master, desk) as eraser:
        position = 0
        for _ in range(8):
            await registered(desk)
            position = await eraser.sweep(position)
            assert position == await log.head()
            assert position - await eraser._mark.read() < 3


async def test_whom_something_was_disclosed_of_is_remembered_as_long_as_they_may_ask(desk: Desk) -> None:
    anna = await registered(desk)
    told = RecordDisclosure(
        patient_id=anna,
        purpose=Purpose.PUBLIC_HEALTH,
        means=Means.POST,
        recipient="Health Office",
        what="a notifiable illness",
        why="the law",
        made_at=datetime.now(UTC) - timedelta(hours=1),
    )
    await desk.handle(told, ADMIN, ORGANIZATION)
    assert await erase(desk, anna) == "refused"
