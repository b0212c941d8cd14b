"""Random commands on shared providers, rooms and patients, from several writer processes at once.

Whatever they do to each other, no time is taken twice, and every live appointment stands on exactly its pages.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule, run_state_machine_as_test
from pydantic_core import from_json, to_json

from commands.loop import Desk, fold_of
from domain.appointment import RELEASED, Appointment, Status
from domain.availability import Page, reserve
from domain.ports import FixedClock, Recorded
from domain.provider import BookingRules, Location, Provider
from domain.time import Period
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from projections.diary import AppointmentDiary
from projections.free_time import FreeTime
from projections.memory import MemoryStore
from tests.clinic import BUFFERED, CHECKUP, GROUP, LOCATION, SCAN, Clinic, every_day, id_of, open_clinic
from tests.conftest import Database
from tests.invariants import assert_never_double_booked

PROCESSES = 3
# 14:00 to 20:00 in winter on the Pacific coast lies on both sides of UTC midnight.
PLACE = Location(id=LOCATION.id, name="Shore Practice", time_zone="America/Los_Angeles")
OPENING = datetime(2026, 1, 20, 22, tzinfo=UTC)
NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)

OVERBOOK = {"rules": ["slot_taken"], "reason": "urgent_need"}

_runs = count(1)


@dataclass(slots=True)
class Rivals:
    database: Database
    key: Path
    processes: Sequence[subprocess.Popen[str]]

    def rush(self, organization: str, now: datetime, commands: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        """Deal the commands to the processes, all at once, and wait for what becomes of them."""
        dealt = [list(commands[number::PROCESSES]) for number in range(PROCESSES)]
        for process, share in zip(self.processes, dealt, strict=True):
            assert process.stdin is not None
            line = {"now": now.isoformat(), "organization": organization, "commands": share}
            process.stdin.write(to_json(line).decode() + "\n")
            process.stdin.flush()
        outcomes: list[str] = []
        for process in self.processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "a rival died"
            outcomes += from_json(line)
        return outcomes


@pytest.fixture
def rivals(database: Database, tmp_path: Path) -> Iterator[Rivals]:
    key = tmp_path / "master.key"
    MasterKeyFile.at(key)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.commands.rival", database.app, str(key)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    yield Rivals(database, key, processes)
    for process in processes:
        process.kill()
        process.wait()


def machine(rivals: Rivals) -> type[RuleBasedStateMachine]:
    async def with_log(work: Any) -> Any:
        keyring = PostgresKeyring(rivals.database.app, MasterKeyFile.at(rivals.key))
        async with PostgresEventLog(rivals.database.app, keyring) as log:
            result = await work(log)
        await keyring.close()
        return result

    class Scramble(RuleBasedStateMachine):
        visits: Bundle[str] = Bundle("visits")

        @initialize(allowance=st.sampled_from([0, 0, 1]))
        def open(self, allowance: int) -> None:
            self.organization = f"run-{next(_runs)}"
            self.allowance = allowance
            self.now = NOW

            async def work(log: PostgresEventLog) -> Clinic:
                desk = Desk(log, FixedClock(NOW), TimeOrderedIds(), PublicHolidays())
                return await open_clinic(
                    desk,
                    organization=self.organization,
                    providers=2,
                    patients=4,
                    rooms=1,
                    rules=BookingRules(overbooking_allowance=allowance, hold_minutes=5),
                    hours=every_day("14:00", "20:00"),
                    location=PLACE,
                )

            self.clinic = asyncio.run(with_log(work))

        def arrange(self, draw: tuple[str, int, int, int, int]) -> tuple[str, dict[str, Any]]:
            name, provider, patient, kind, quarter = draw
            visit_type = (CHECKUP, BUFFERED, GROUP, SCAN)[kind]
            return name, {
                "patient_id": str(self.clinic.patients[patient]),
                "provider_id": str(self.clinic.providers[provider]),
                "location_id": str(PLACE.id),
                "visit_type_id": str(visit_type.id),
                "start": (OPENING + timedelta(minutes=15 * quarter)).isoformat(),
                "resources": [str(self.clinic.rooms[0])] if visit_type is SCAN else [],
                "override": OVERBOOK,
            }

        @rule(
            target=visits,
            asked=st.lists(
                st.tuples(
                    st.sampled_from(["HoldAppointment", "BookAppointment", "BookAppointment"]),
                    st.integers(0, 1),
                    st.integers(0, 3),
                    st.integers(0, 3),
                    st.integers(0, 18),
                ),
                min_size=2,
                max_size=12,
            ),
        )
        def book(self, asked: list[tuple[str, int, int, int, int]]) -> Any:
            outcomes = rivals.rush(self.organization, self.now, [self.arrange(one) for one in asked])
            return multiple(*(outcome for outcome in outcomes if len(outcome) == 36))

        @rule(
            changes=st.lists(
                st.tuples(
                    visits,
                    st.sampled_from(["BookHeldAppointment", "MoveAppointment", "CancelAppointment", "LapseHold"]),
                    st.integers(0, 18),
                ),
                min_size=1,
                max_size=9,
            )
        )
        def change(self, changes: list[tuple[str, str, int]]) -> None:
            commands = []
            for visit, name, quarter in changes:
                body: dict[str, Any] = {"appointment_id": visit}
                if name == "MoveAppointment":
                    body |= {"start": (OPENING + timedelta(minutes=15 * quarter)).isoformat(), "override": OVERBOOK}
                commands.append((name, body))
            rivals.rush(self.organization, self.now, commands)

        @rule(quarter=st.integers(0, 18), owner=st.integers(0, 2))
        def block(self, quarter: int, owner: int) -> None:
            start = OPENING + timedelta(minutes=15 * quarter)
            resource = [*self.clinic.providers, self.clinic.rooms[0]][owner]
            period = {"start": start.isoformat(), "end": (start + timedelta(minutes=30)).isoformat()}
            body = {"block": [{"resource_id": str(resource), "period": period}]}
            rivals.rush(self.organization, self.now, [("BlockTimes", body)] * 2)

        @rule(minutes=st.sampled_from([1, 4, 6]))
        def wait(self, minutes: int) -> None:
            self.now += timedelta(minutes=minutes)

        def teardown(self) -> None:
            if not hasattr(self, "clinic"):
                return

            async def work(log: PostgresEventLog) -> list[Recorded]:
                return [one for one in await log.read(0, 1_000_000) if one.organization == self.organization]

            history = asyncio.run(with_log(work))
            assert_never_double_booked(history, allowance=self.allowance)
            states = folded(history)
            assert_pages_agree(states)
            asyncio.run(assert_read_models_agree(history, states))

    return Scramble


def folded(history: Sequence[Recorded]) -> dict[str, Any]:
    """Every stream's state, folded from the log alone."""
    states: dict[str, Any] = {}
    for recorded in history:
        states[recorded.stream] = fold_of(recorded.stream)(states.get(recorded.stream), recorded.event)
    return states


async def assert_read_models_agree(history: Sequence[Recorded], states: Mapping[str, Any]) -> None:
    """The read models, filled in bites, show what the folds of the log say."""
    diary, free_time = AppointmentDiary(MemoryStore()), FreeTime(MemoryStore())
    for start in range(0, len(history), 7):
        await diary.apply(history[start : start + 7])
        await free_time.apply(history[start : start + 7])
    for state in states.values():
        organization = history[0].organization
        if isinstance(state, Appointment):
            row = await diary.appointment(organization, state.id)
            assert row is not None
            assert (row.status, row.period, row.occupied, row.provider_id, row.resources, row.held_until) == (
                state.status,
                state.period,
                state.occupied,
                state.provider_id,
                state.resources,
                state.held_until if state.status is Status.HELD else row.held_until,
            )
        if isinstance(state, Page):
            kept = await free_time.page(organization, state.resource_id, state.day)
            assert kept.value.entries == state.entries
        if isinstance(state, Provider):
            known = await free_time.provider(organization, state.id)
            assert known is not None
            assert known.value == state


def assert_pages_agree(states: Mapping[str, Any]) -> None:
    """Every appointment that keeps its time stands on exactly the pages that it says, and nothing else does."""
    expected = {
        (owner, day, state.id)
        for state in states.values()
        if isinstance(state, Appointment) and state.status not in RELEASED
        for owner, day in state.pages()
    }
    standing = {
        (page.resource_id, page.day, entry.id)
        for page in states.values()
        if isinstance(page, Page)
        for entry in page.entries.values()
        if entry.block is None
    }
    assert standing == expected


def test_no_scramble_of_several_processes_takes_a_time_twice(rivals: Rivals) -> None:
    run_state_machine_as_test(
        machine(rivals),
        settings=settings(
            max_examples=15,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_the_check_itself_sees_a_time_taken_twice() -> None:
    visit = Period(OPENING, OPENING + timedelta(minutes=30))
    doubled = [
        Recorded(
            position=number,
            organization="twice",
            stream="page",
            version=number,
            event_id=id_of("event"),
            event=event,
            occurred_at=NOW,
            recorded_at=NOW,
            actor="nobody",
            command_id=id_of("command"),
            correlation_id=id_of("command"),
        )
        for number in (1, 2)
        for event in reserve(
            id_of("provider"),
            appointment_id=id_of(str(number)),
            visit=visit,
            occupied=visit,
            session_id=id_of(str(number)),
        )
    ]
    with pytest.raises(AssertionError, match="two visits take one time"):
        assert_never_double_booked(doubled)
