"""Booking on a log of a million events beside booking on one of a thousand.

Databases on one server; rounds alternate between a small log and the large one. Bookings go through the command loop,
so that what is measured is the log and the decisions, not HTTP. Each round books with providers, patients and days that
the caches have not seen.
"""

from __future__ import annotations

import asyncio
import statistics
import time as clock
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.conninfo import make_conninfo

from commands.appointments import BookAppointment
from commands.loop import Desk
from commands.patients import RegisterPatient
from commands.providers import Hours, RegisterProvider
from domain.access import Actor, Role
from domain.patient import PatientRegistered
from domain.patient import stream as patient_stream
from domain.ports import Context, NewEvent, Save
from domain.provider import Location, VisitType, WallInterval, WeeklyHours
from infra.bench.served import folder
from infra.embedded.data_folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.event_log.log import PostgresEventLog
from infra.event_log.schema import app_dsn, migrate
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring

SMALL, LARGE = 1_000, 1_000_000
ROUNDS = 7
BOOKINGS = 600
AT_ONCE = 32
ACTOR = Actor("bench", Role.ADMIN)
ORGANIZATION = "bench"


def run(size: float = 1.0) -> dict[str, Any]:
    large = max(20_000, int(LARGE * size))
    with folder("growth") as data:
        postgres = Postgres(DataFolder.open(data))
        postgres.ensure_running()
        try:
            return asyncio.run(_compare(postgres.dsn(), data, large))
        finally:
            postgres.stop()


async def _compare(server: str, data: Path, large: int) -> dict[str, Any]:
    large_book = await _Book.open(server, "bench_large", data, large)
    small: list[float] = []
    grown: list[float] = []
    await large_book.round()
    for number in range(ROUNDS):
        # A new one each time: a round alone makes a small log several times its size.
        small_book = await _Book.open(server, f"bench_small_{number}", data, SMALL)
        small.append(await small_book.round())
        await small_book.close()
        grown.append(await large_book.round())
    large_at_the_end = await large_book.log.head()
    await large_book.close()
    ratio = statistics.median(after / before for before, after in zip(small, grown, strict=True))
    return {
        "figure": round(1000 * statistics.median(grown) / BOOKINGS, 3),
        "unit": "ms a booking",
        "baseline": round(1000 * statistics.median(small) / BOOKINGS, 3),
        "ratio": round(ratio, 3),
        "holds": ratio <= 1.2,
        "details": {
            "events": [SMALL, large],
            "large_at_the_end": large_at_the_end,
            "rounds": ROUNDS,
            "bookings_a_round": BOOKINGS,
            "at_once": AT_ONCE,
        },
    }


class _Book:
    """A log with some history, and a desk on it."""

    def __init__(self, log: PostgresEventLog, keyring: PostgresKeyring) -> None:
        self.log = log
        self._keyring = keyring
        self._ids = TimeOrderedIds()
        self._desk = self._new_desk()
        self._location = Location(id=uuid4(), name="Bench Street", time_zone="Europe/Berlin")
        self._visit_type = VisitType(id=uuid4(), name="Check-up", duration_minutes=15)
        self._day = datetime.now(UTC).replace(hour=6, minute=0, second=0, microsecond=0) + timedelta(days=2)

    def _new_desk(self) -> Desk:
        return Desk(self.log, self.log.clock, self._ids, PublicHolidays())

    @classmethod
    async def open(cls, server: str, name: str, data: Path, events: int) -> _Book:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        dsn = make_conninfo(server, dbname=name)
        migrate(dsn)
        keyring = PostgresKeyring(app_dsn(dsn), MasterKeyFile.at(data / "master.key"))
        log = PostgresEventLog(app_dsn(dsn), keyring)
        await log.open()
        book = cls(log, keyring)
        await book._age(events)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
        return book

    async def _age(self, events: int) -> None:
        """Fill the log up to a number of events, 2,000 a save."""

        async def save(count: int) -> None:
            new: list[NewEvent] = []
            for _ in range(count):
                key = self._ids.new()
                event = PatientRegistered(patient_id=key)
                new.append(NewEvent(patient_stream(key), event, datetime.now(UTC), self._ids.new()))
            context = Context(ORGANIZATION, ACTOR.id, self._ids.new(), self._ids.new())
            await self.log.append(Save(context, {one.stream: 0 for one in new}, new))

        left = events - await self.log.head()
        while left > 0:
            shares = [min(2000, left - 2000 * number) for number in range(4) if left > 2000 * number]
            await asyncio.gather(*(save(share) for share in shares))
            left -= sum(shares)

    async def round(self) -> float:
        """Seconds for a round of bookings, by a desk that knows nothing yet."""
        whole_day = (WallInterval(start=time(0), end=time(0)),)
        days = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
        register = RegisterProvider(
            name="Dr. Bench Example",
            locations=(self._location,),
            visit_types=(self._visit_type,),
            hours=(Hours(location_id=self._location.id, hours=WeeklyHours(**dict.fromkeys(days, whole_day))),),
        )
        setting_up = self._new_desk()
        providers = [await self._made(setting_up, register, "provider_id") for _ in range(20)]
        patients = [await self._made(setting_up, RegisterPatient(), "patient_id") for _ in range(60)]
        wanted = iter(
            BookAppointment(
                patient_id=patients[number % 60],
                provider_id=providers[number % 20],
                location_id=self._location.id,
                visit_type_id=self._visit_type.id,
                start=self._day + timedelta(minutes=15 * (number // 20)),
            )
            for number in range(BOOKINGS)
        )
        desk = self._new_desk()

        async def client() -> None:
            for command in wanted:
                await desk.handle(command, ACTOR, ORGANIZATION)

        started = clock.perf_counter()
        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
        return clock.perf_counter() - started

    async def _made(self, desk: Desk, command: Any, key: str) -> UUID:
        return UUID((await desk.handle(command, ACTOR, ORGANIZATION)).content[key])

    async def close(self) -> None:
        await self.log.close()
        await self._keyring.close()
