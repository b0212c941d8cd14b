"""The invented clinic: by the rules, in order of time, and with something of everything."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from commands.loop import NOTHING, Desk
from domain import provider, slots
from domain.appointment import (
    AppointmentBooked,
    AppointmentEvent,
    AppointmentHeld,
    AppointmentRescheduled,
    PatientCheckedIn,
)
from domain.availability import Shelf, TimeBlocked, page_stream
from domain.ports import Recorded
from domain.provider import HoursExceptionSet, Mode, Provider, PublicHolidaysObserved, TimeOffPlanned
from domain.series import SeriesBooked
from domain.slots import Diary, Wish
from infra.demo import NotEmpty, Summary, fill, try_next
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from tests.conftest import Database
from tests.invariants import assert_never_double_booked

ORGANIZATION = "invented"
# A Monday noon, with the clocks of both places changing in the weeks around it; and a night before a holiday weekend.
NOWS = (datetime(2026, 3, 16, 12, 10, tzinfo=UTC), datetime(2026, 12, 24, 23, 50, tzinfo=UTC))


@pytest.fixture
async def log(database: Database, tmp_path: Path) -> AsyncIterator[PostgresEventLog]:
    keyring = PostgresKeyring(database.app, MasterKeyFile.at(tmp_path / "master.key"))
    async with PostgresEventLog(database.app, keyring) as opened:
        yield opened
    await keyring.close()


@pytest.fixture
def desk(log: PostgresEventLog) -> Desk:
    return Desk(log, log.clock, TimeOrderedIds(), PublicHolidays())


async def history(log: PostgresEventLog) -> list[Recorded]:
    found: list[Recorded] = []
    while more := await log.read(found[-1].position if found else 0, 5000):
        found += more
    return found


@pytest.mark.parametrize("now", NOWS, ids=lambda now: now.date().isoformat())
async def test_the_clinic_has_something_of_everything(now: datetime, desk: Desk, log: PostgresEventLog) -> None:
    done: list[tuple[int, int]] = []
    summary = await fill(desk, ORGANIZATION, 1, now, lambda so_far, total: done.append((so_far, total)))
    assert done[-1][0] == done[-1][1] == len(done)
    events = await history(log)
    assert summary.position == events[-1].position

    assert {
        "booked",
        "cancelled",
        "completed",
        "declined",
        "held",
        "no_show",
        "requested",
    } <= summary.appointments.keys()
    assert summary.appointments["booked"] > 100
    assert summary.appointments["completed"] > 200
    assert len({one.stream for one in events if one.stream.startswith("appointment/")}) == sum(
        summary.appointments.values()
    )
    kinds = {type(one.event) for one in events}
    assert {
        AppointmentRescheduled,
        HoursExceptionSet,
        PatientCheckedIn,
        PublicHolidaysObserved,
        SeriesBooked,
        TimeBlocked,
        TimeOffPlanned,
    } <= kinds
    booked = [one.event for one in events if isinstance(one.event, AppointmentBooked)]
    assert any(event.mode is Mode.TELEMEDICINE and event.video_url for event in booked)
    assert any(event.seats > 1 for event in booked)
    assert any(event.resources for event in booked)
    assert {event.time_zone for event in booked} == {"Europe/Lisbon", "America/New_York"}
    (held,) = [one for one in events if isinstance(one.event, AppointmentHeld) and one.occurred_at == now]
    assert held.event.held_until > now


async def test_it_is_lived_through_in_order_and_by_the_rules(desk: Desk, log: PostgresEventLog) -> None:
    now = NOWS[0]
    summary = await fill(desk, ORGANIZATION, 2, now)
    events = await history(log)
    assert all(first.occurred_at <= second.occurred_at for first, second in pairwise(events))
    assert events[-1].occurred_at <= now
    assert assert_never_double_booked(events) > 500
    taken = [one for one in events if isinstance(one.event, AppointmentBooked | AppointmentRescheduled)]
    assert all(one.event.period.start > one.occurred_at and one.event.override is None for one in taken)
    assert {one.actor for one in events if isinstance(one.event, AppointmentEvent)} > {"demo-desk"}
    await assert_there_is_something_to_book(desk, summary, now)

    words = "\n".join(try_next(summary, "http://127.0.0.1:8000", Path("here")))
    assert "5 providers at 2 places, 60 patients." in words
    assert "daybook token --role front_desk --org invented --data here" in words
    assert f"/read/slots?visit_type_id={summary.visit_type_id}" in words

    again = await desk.log.head()
    with pytest.raises(NotEmpty, match="The book of invented is not empty"):
        await fill(desk, ORGANIZATION, 2, now)
    assert await desk.log.head() == again
    other = await fill(desk, "another", 2, now)
    assert other.appointments == summary.appointments


async def assert_there_is_something_to_book(desk: Desk, summary: Summary, now: datetime) -> None:
    """The ids and the day that a newcomer is told lead to free times."""
    assert summary.provider_id
    assert summary.location_id
    assert summary.visit_type_id
    assert summary.day
    stream = provider.stream(summary.provider_id)
    state = (await desk.catch_up(ORGANIZATION, {stream: NOTHING}))[stream][1]
    assert isinstance(state, Provider)
    wish = Wish(summary.visit_type_id, summary.location_id, now, patient_id=summary.patient_id)
    pages = slots.pages_between(state, wish, summary.day, summary.day)
    streams = {page: page_stream(*page) for page in pages}
    states = await desk.catch_up(ORGANIZATION, dict.fromkeys(streams.values(), NOTHING))
    shelf = Shelf({page: states[name][1] for page, name in streams.items()})
    assert list(slots.free_slots(Diary(state, shelf, now), wish, summary.day, summary.day))


@pytest.fixture
def data() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="daybook-demo-", dir="/tmp"))
    yield path / "data"
    shutil.rmtree(path, ignore_errors=True)


def test_the_command_fills_a_book_once(data: Path) -> None:
    def ran(*options: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "infra.cli.main", "demo", "--data", str(data), *options]
        return subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)

    first = ran("--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["organization"] == "main"
    second = ran()
    assert second.returncode == 2
    assert second.stderr.startswith("daybook: The book of main is not empty.")
