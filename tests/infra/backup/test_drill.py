"""The drill: the database and its folder are lost under load, and the log is brought back from its backup.

It prints how much was lost and how long it took; neither is a condition.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg
import pytest
from pydantic_core import from_json, to_json

from commands.appointments import BookAppointment
from commands.loop import Desk
from domain.ports import FixedClock, Recorded
from infra.backup.create import create
from infra.backup.manifest import Manifest
from infra.backup.restore import restore
from infra.backup.verify import verify
from infra.event_log.checkpoints import Checkpointer, read_checkpoints
from infra.event_log.log import PostgresEventLog
from infra.event_log.schema import app_dsn, migrate
from infra.event_log.verify import verify as verify_log
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from projections.diary import AppointmentDiary
from projections.documents import DocumentModel
from projections.free_time import FreeTime
from projections.memory import MemoryStore
from streams.follower import Follower
from tests.clinic import CHECKUP, DESK, LOCATION, ORGANIZATION, Clinic, open_clinic
from tests.infra.backup.conftest import KEY, PUBLIC
from tests.infra.event_log.conftest import until
from tests.infra.event_log.test_crashes import Server

PROCESSES = 3
NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
OPENING = datetime(2026, 1, 19, 7, tzinfo=UTC)


@pytest.fixture
def folder() -> Iterator[Path]:
    # A socket's path is short, so the folder stands near the root.
    folder = Path(tempfile.mkdtemp(prefix="daybook-drill-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def opened(dsn: str, key: Path) -> AsyncIterator[PostgresEventLog]:
    keyring = PostgresKeyring(app_dsn(dsn), MasterKeyFile.at(key))
    async with PostgresEventLog(app_dsn(dsn), keyring) as log:
        yield log
    await keyring.close()


def desk_on(log: PostgresEventLog) -> Desk:
    return Desk(log, FixedClock(NOW), TimeOrderedIds(), PublicHolidays())


async def everything(log: PostgresEventLog) -> list[Recorded]:
    events: list[Recorded] = []
    while more := await log.read(len(events), 1000):
        events += more
    return events


@dataclass
class Desks:
    """Processes that book without a pause, each its own providers' times; `booked` are acknowledged appointments."""

    dsn: str
    key: Path
    clinic: Clinic
    booked: list[str] = field(default_factory=list)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    threads: list[Thread] = field(default_factory=list)

    def start(self) -> None:
        for number in range(PROCESSES):
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.commands.rival", app_dsn(self.dsn), str(self.key)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self.processes.append(process)
            self.threads.append(Thread(target=self._book, args=(process, number)))
            self.threads[-1].start()

    def _book(self, process: subprocess.Popen[str], number: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        for quarter in range(4000):
            day, place = divmod(quarter, 16)
            start = OPENING + timedelta(days=day, minutes=30 * place)
            provider, patient = self.clinic.providers[number], self.clinic.patients[number]
            body = {
                "patient_id": str(patient),
                "provider_id": str(provider),
                "location_id": str(LOCATION.id),
                "visit_type_id": str(CHECKUP.id),
                "start": start.isoformat(),
            }
            line = {"now": NOW.isoformat(), "organization": ORGANIZATION, "commands": [["BookAppointment", body]]}
            try:
                process.stdin.write(to_json(line).decode() + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except OSError:
                return
            if not answer:
                return
            self.booked += [outcome for outcome in from_json(answer) if len(outcome) == 36]

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for thread in self.threads:
            thread.join()


@dataclass
class Backups:
    """Backs up again and again. `acknowledged` counts what was acknowledged before the last whole run began."""

    dsn: str
    folder: Path
    signed: Path
    desks: Desks
    acknowledged: int = 0
    runs: int = 0
    stopping: Event = field(default_factory=Event)
    thread: Thread | None = None

    def start(self) -> None:
        self.thread = Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.stopping.is_set():
            known = len(self.desks.booked)
            try:
                create(app_dsn(self.dsn), self.folder, KEY, checkpoints=self.signed)
            except psycopg.Error:
                # The database is gone, perhaps in the middle of a run.
                continue
            self.acknowledged, self.runs = known, self.runs + 1
            self.stopping.wait(0.2)

    def stop(self) -> None:
        self.stopping.set()
        if self.thread is not None:
            self.thread.join()


async def filled(log: PostgresEventLog, models: list[Any]) -> list[Any]:
    async with Follower(log, models, grace=0) as follower:
        assert await follower.caught_up(60)
    return [(model.store.kept, model.store.lists) for model in models]


def empty_models() -> list[DocumentModel]:
    return [AppointmentDiary(MemoryStore()), FreeTime(MemoryStore())]


async def test_the_database_is_lost_under_load_and_comes_back(folder: Path) -> None:
    backup, signed, key = folder / "backup", folder / "signed", folder / "master.key"
    server = Server(folder / "one")
    migrate(server.dsn)
    stale = empty_models()
    async with opened(server.dsn, key) as log:
        clinic = await open_clinic(desk_on(log), providers=PROCESSES, patients=PROCESSES)
        desks = Desks(server.dsn, key, clinic)
        backups = Backups(server.dsn, backup, signed, desks)
        checkpointer = Checkpointer(app_dsn(server.dsn), signed, KEY, log.wait, events=100, seconds=0.5)
        checkpointer.start()
        desks.start()
        backups.start()
        async with Follower(log, stale, grace=0) as follower:
            await until(lambda: backups.runs >= 5 and len(desks.booked) >= 150)
            head = await log.head()
            await follower.caught_up(20)
            lost_at = datetime.now(UTC)
            server.kill()
            shutil.rmtree(folder / "one")
        backups.stop()
        desks.stop()
        await checkpointer.close()

    began = time.perf_counter()
    assert verify(backup, keys=PUBLIC).ok
    second = Server(folder / "two")
    try:
        restored = await asyncio.to_thread(
            restore, backup, second.dsn, MasterKeyFile.at(key), keys=PUBLIC, checkpoints=signed
        )
        took = time.perf_counter() - began
        manifest = Manifest.load(backup)
        print(
            f"\nrecovery point: {max(0, head - manifest.position)} of {head} events, "
            f"{(lost_at - manifest.made_at).total_seconds():.2f} s; recovery time: {took:.2f} s"
        )
        assert restored.verified.faults == ()
        assert restored.verified.checkpoints > 1
        assert verify_log(second.dsn, signed).ok
        async with opened(second.dsn, key) as log:
            await check_the_restored(log, desks, backups.acknowledged, stale, signed, second.dsn)
    finally:
        second.cleanup()


async def check_the_restored(
    log: PostgresEventLog, desks: Desks, acknowledged: int, stale: list[DocumentModel], signed: Path, dsn: str
) -> None:
    events = await everything(log)
    there = {str(getattr(one.event, "appointment_id", "")) for one in events}
    assert acknowledged > 50
    assert set(desks.booked[:acknowledged]) <= there
    # Read models that had heard of what is lost are filled anew, and equal those that were never there before.
    assert min([await model.position() for model in stale]) >= len(events)
    for model in stale:
        model.forget()
    assert await filled(log, stale) == await filled(log, empty_models())
    # Bookings go on, and so does signing.
    booked = await desk_on(log).handle(
        BookAppointment.model_validate(
            {
                "patient_id": desks.clinic.patients[0],
                "provider_id": desks.clinic.providers[0],
                "location_id": LOCATION.id,
                "visit_type_id": CHECKUP.id,
                "start": OPENING + timedelta(days=300),
            }
        ),
        DESK,
        ORGANIZATION,
    )
    assert booked.content["appointment_id"]
    await Checkpointer(app_dsn(dsn), signed, KEY, log.wait).close()
    assert read_checkpoints(signed)[-1].size == await log.head() > len(events)  # type: ignore[union-attr]
    assert verify_log(dsn, signed).ok
