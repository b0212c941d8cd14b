"""From command to read model through the real log and the real stores, and back to any moment of it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from clickhouse_connect.driver.client import Client
from redis.asyncio import Redis

from commands.appointments import (
    BookAppointment,
    CancelAppointment,
    CompleteVisit,
    HoldAppointment,
    MarkNoShow,
    MoveAppointment,
)
from commands.loop import Desk
from domain.provider import BookingRules
from domain.refusals import Refusal
from domain.slots import Wish, free_slots
from domain.time import Period
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from projections.as_of import AsOf
from projections.diary import AppointmentDiary
from projections.facts import Facts
from projections.free_time import FreeTime
from projections.memory import MemoryStore
from projections.redis_store import RedisStore
from streams.follower import Follower
from tests.clinic import CHECKUP, DESK, LOCATION, ORGANIZATION, in_days, open_clinic
from tests.conftest import Database
from tests.projections.test_redis import everything

PRIVATE = "a lump nobody else should hear of"


@pytest.fixture
async def desk(database: Database, tmp_path: Path) -> AsyncIterator[Desk]:
    keyring = PostgresKeyring(database.app, MasterKeyFile.at(tmp_path / "master.key"))
    async with PostgresEventLog(database.app, keyring) as log:
        yield Desk(log, log.clock, TimeOrderedIds(), PublicHolidays())
    await keyring.close()


async def test_what_was_commanded_can_be_read_now_and_as_it_was(
    desk: Desk, live_views: Redis, analytics: tuple[Client, Client, str]
) -> None:
    client, reader, database = analytics
    diary, free_time = (
        AppointmentDiary(RedisStore(live_views, "diary")),
        FreeTime(RedisStore(live_views, "free_time")),
    )
    facts = Facts(client, reader, database=database)
    chance = random.Random(1)
    week = Period(in_days(1, 0), in_days(9, 0))
    async with Follower(desk.log, [diary, free_time, facts], grace=0) as follower:
        clinic = await open_clinic(desk, providers=2, patients=4, rules=BookingRules(horizon_days=30))
        moments = []
        booked: list[UUID] = []
        for number in range(40):
            start = in_days(chance.randrange(1, 8), chance.randrange(8, 17), chance.choice((0, 30)))
            with suppress(Refusal):
                command: object
                if number % 4 < 2 or not booked:
                    command = chance.choice((BookAppointment, HoldAppointment))(
                        patient_id=chance.choice(clinic.patients),
                        provider_id=chance.choice(clinic.providers),
                        location_id=LOCATION.id,
                        visit_type_id=CHECKUP.id,
                        start=start,
                        reason=PRIVATE,
                    )
                else:
                    key = chance.choice(booked)
                    command = chance.choice(
                        (
                            MoveAppointment(appointment_id=key, start=start),
                            CancelAppointment(appointment_id=key, note=PRIVATE),
                            CompleteVisit(appointment_id=key),
                            MarkNoShow(appointment_id=key),
                        )
                    )
                answer = await desk.handle(command, DESK, ORGANIZATION)  # type: ignore[arg-type]
                booked.append(UUID(str(answer.content["appointment_id"])))
                # Whoever was answered reads what they did.
                assert await follower.wait_until("diary", answer.position, 10)
                row = await diary.appointment(ORGANIZATION, booked[-1])
                assert row is not None
                assert row.status.value == answer.content["status"]
                rows = [await diary.of_provider(ORGANIZATION, key, week) for key in clinic.providers]
                moments.append((answer.position, rows))
            if number == 20:
                assert await follower.rebuild("diary") > 0
                assert await follower.rebuild("free_time") > 0
        assert len(moments) > 20
        assert await follower.caught_up(20)

        for position, rows in moments[:: len(moments) // 5]:
            past = AsOf(desk.log, ORGANIZATION, position)
            assert [await past.of_provider(key, week) for key in clinic.providers] == rows
        now = desk.clock.now()
        wish = Wish(CHECKUP.id, LOCATION.id, now, patient_id=clinic.patient)
        days = ((now + timedelta(days=1)).date(), (now + timedelta(days=8)).date())
        past = AsOf(desk.log, ORGANIZATION, await desk.log.head())
        for key in clinic.providers:
            shown = await free_time.diary(ORGANIZATION, key, wish, *days, now)
            folded = await past.diary(key, wish, *days, now)
            slots = list(free_slots(shown, wish, *days))
            assert slots
            assert slots == list(free_slots(folded, wish, *days))
            # A slot that is shown can be booked.
            slot = chance.choice(slots)
            await desk.handle(
                BookAppointment(
                    patient_id=clinic.patient,
                    provider_id=key,
                    location_id=LOCATION.id,
                    visit_type_id=CHECKUP.id,
                    start=slot.period.start,
                ),
                DESK,
                ORGANIZATION,
            )
            wish = Wish(CHECKUP.id, LOCATION.id, now, patient_id=clinic.patients[1])
        assert await follower.caught_up(20)

    events = await desk.log.read(0, 10_000)
    for model in (diary, free_time):
        memory = MemoryStore()
        await type(model)(memory).apply(events)
        found = await everything(live_views, f"daybook:{model.name}:2:")
        assert {name: value for name, value in found.items() if isinstance(value, bytes)} == memory.kept
    kept = repr(await everything(live_views, "")) + repr(
        client.query(f"SELECT * FROM {database}.appointments").result_rows
    )
    assert str(booked[0]) in kept
    assert PRIVATE not in kept
    counted = await facts.event_counts(ORGANIZATION)
    assert sum(counted.values()) == len(events)
    await facts.close()
