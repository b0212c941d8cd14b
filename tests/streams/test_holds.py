"""Holds that ended by the clock are written down, once, whoever looks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from commands.appointments import HoldAppointment
from commands.loop import Desk
from domain.appointment import HoldLapsed
from domain.ports import FixedClock
from domain.provider import BookingRules
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from projections.diary import AppointmentDiary
from projections.memory import MemoryStore
from streams.holds import HoldSweeper
from tests.clinic import CHECKUP, DESK, LOCATION, ORGANIZATION, in_days, open_clinic
from tests.conftest import Database


async def test_an_ended_hold_lapses_once(database: Database, tmp_path: Path) -> None:
    keyring = PostgresKeyring(database.app, MasterKeyFile.at(tmp_path / "master.key"))
    async with PostgresEventLog(database.app, keyring) as log:
        clock = FixedClock(datetime.now(UTC))
        desk = Desk(log, clock, TimeOrderedIds(), PublicHolidays())
        clinic = await open_clinic(desk, rules=BookingRules(hold_minutes=5))
        held = await desk.handle(
            HoldAppointment(
                patient_id=clinic.patient,
                provider_id=clinic.provider,
                location_id=LOCATION.id,
                visit_type_id=CHECKUP.id,
                start=in_days(3),
            ),
            DESK,
            ORGANIZATION,
        )
        diary = AppointmentDiary(MemoryStore())
        sweeper, other = HoldSweeper(desk, diary), HoldSweeper(desk, diary)
        await diary.apply(await log.read(0, 1000))
        assert await sweeper.sweep() == 0
        clock.instant += timedelta(minutes=5)
        # The second looks at a diary that has not heard of the first one's doing.
        assert (await sweeper.sweep(), await other.sweep()) == (1, 0)
        history = await log.read(0, 1000)
        lapsed = [one.event for one in history if isinstance(one.event, HoldLapsed)]
        assert [event.appointment_id for event in lapsed] == [UUID(held.content["appointment_id"])]
        await diary.apply(history)
        assert await diary.ended_holds(clock.now()) == []
    await keyring.close()
