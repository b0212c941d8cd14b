"""Facts for analysts: one row an appointment, replaced as it changes, and one row an event.

In: events. Out: two ClickHouse tables of each generation, and two views over the live ones that keep their names.
docs/decisions/0020-what-clickhouse-gets.md says what may stand here: codes, bands and times, never who the patient is.

Appointments are written first, events next and the progress of parts last; where the log comes whole, its last event
says how far that is. What a crash left half done is done again to the same rows. Rows are replaced by position; nothing
is summed at insert.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from itertools import groupby, islice
from typing import Any, ClassVar, NamedTuple, Self, TypeVar
from uuid import UUID

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from domain.appointment import (
    STATUS_AFTER,
    AppointmentBooked,
    AppointmentCancelled,
    AppointmentEvent,
    AppointmentRescheduled,
    Arranged,
    Status,
)
from domain.events import Event
from domain.ports import Recorded
from domain.provider import Money
from domain.reminder import ReminderSent
from domain.time import Period, zone
from projections.model import Model, Poison, Portion, follows

T = TypeVar("T")

NOBODY = UUID(int=0)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Lead time in local calendar days, both ends included; the last has no end.
LEAD_BANDS: tuple[tuple[int, int | None], ...] = ((0, 0), (1, 2), (3, 7), (8, 14), (15, 30), (31, None))

# A batch is too small to be worth sharing among threads: handing it about takes longer than writing it.
_ALONE = {"max_threads": 1, "max_insert_threads": 1}

_UNKNOWN_TABLE = 60
_UNKNOWN_DATABASE = 81


class Fact(NamedTuple):
    """One appointment. `first_recorded_at` never changes, so the row stays in its partition. Local date, weekday (1 is
    Monday) and hour are the visit's, at its location; `lead_days` are local calendar days from booking to visit."""

    organization: str
    appointment_id: UUID
    provider_id: UUID
    location_id: UUID
    visit_type_id: UUID
    mode: str
    status: str
    first_recorded_at: datetime
    created_at: datetime
    booked_at: datetime | None
    visit_start: datetime
    visit_end: datetime
    time_zone: str
    local_date: date
    local_weekday: int
    local_hour: int
    lead_days: int
    moved: int
    cancelled_by: str
    cancellation_reason: str
    no_show: bool
    completed: bool
    overridden: bool
    fee_amount: Decimal | None
    fee_currency: str
    version: int
    position: int


_TYPES = """
    organization LowCardinality(String),
    appointment_id UUID,
    provider_id UUID,
    location_id UUID,
    visit_type_id UUID,
    mode LowCardinality(String),
    status LowCardinality(String),
    first_recorded_at DateTime64(6, 'UTC'),
    created_at DateTime64(6, 'UTC'),
    booked_at Nullable(DateTime64(6, 'UTC')),
    visit_start DateTime64(6, 'UTC'),
    visit_end DateTime64(6, 'UTC'),
    time_zone LowCardinality(String),
    local_date Date32,
    local_weekday UInt8,
    local_hour UInt8,
    lead_days Int32,
    moved UInt16,
    cancelled_by LowCardinality(String),
    cancellation_reason LowCardinality(String),
    no_show Bool,
    completed Bool,
    overridden Bool,
    fee_amount Nullable(Decimal(14, 2)),
    fee_currency LowCardinality(String),
    version UInt32,
    position UInt64
"""
_COLUMNS = Fact._fields
_INSTANTS = tuple(
    _COLUMNS.index(name) for name in ("first_recorded_at", "created_at", "booked_at", "visit_start", "visit_end")
)

# `party` is the side that acted, where the event says so; the actor's own id stays in the log. `part` is the part of
# the log in which the event arrived, so that the rows themselves say how far each part has come.
_EVENT_TYPES = """
    position UInt64,
    organization LowCardinality(String),
    kind LowCardinality(String),
    name LowCardinality(String),
    appointment_id UUID,
    party LowCardinality(String),
    occurred_at DateTime64(6, 'UTC'),
    recorded_at DateTime64(6, 'UTC'),
    part LowCardinality(String)
"""
_EVENT_COLUMNS = (
    "position",
    "organization",
    "kind",
    "name",
    "appointment_id",
    "party",
    "occurred_at",
    "recorded_at",
    "part",
)


def fold(known: Fact | None, recorded: Recorded) -> Fact:
    """An appointment's row after one more event of its stream."""
    event = recorded.event
    if isinstance(event, Arranged):
        return _arranged(known, recorded, event)
    if known is None:
        raise TypeError(f"{event.NAME} before an appointment was made")
    changes: dict[str, Any] = {"version": recorded.version, "position": recorded.position}
    if (status := STATUS_AFTER.get(type(event))) is not None:
        changes["status"] = status.value
        changes["no_show"] = status is Status.NO_SHOW
        changes["completed"] = status is Status.COMPLETED
    match event:
        case AppointmentRescheduled():
            changes |= _visit(event.period, event.time_zone, known.booked_at or known.created_at)
            changes |= {
                "provider_id": event.provider_id,
                "location_id": event.location_id,
                "visit_type_id": event.visit_type_id,
                "mode": event.mode.value,
                "moved": known.moved + 1,
                **_fee(event.fee),
                "overridden": known.overridden or event.override is not None,
            }
        case AppointmentCancelled():
            changes["cancelled_by"] = event.by.value
            changes["cancellation_reason"] = event.reason.value
            changes["overridden"] = known.overridden or event.override is not None
    return known._replace(**changes)


def _arranged(known: Fact | None, recorded: Recorded, event: Arranged) -> Fact:
    booked_at = recorded.occurred_at if isinstance(event, AppointmentBooked) else None
    created_at = known.created_at if known else recorded.occurred_at
    return Fact(
        organization=recorded.organization,
        appointment_id=event.appointment_id,
        provider_id=event.provider_id,
        location_id=event.location_id,
        visit_type_id=event.visit_type_id,
        mode=event.mode.value,
        status=STATUS_AFTER[type(event)].value,
        first_recorded_at=known.first_recorded_at if known else recorded.recorded_at,
        created_at=created_at,
        booked_at=booked_at,
        **_visit(event.period, event.time_zone, booked_at or created_at),
        moved=0,
        cancelled_by="",
        cancellation_reason="",
        no_show=False,
        completed=False,
        overridden=(known is not None and known.overridden) or event.override is not None,
        **_fee(event.fee),
        version=recorded.version,
        position=recorded.position,
    )


def _fee(fee: Money | None) -> dict[str, Any]:
    return {"fee_amount": fee.amount if fee else None, "fee_currency": fee.currency if fee else ""}


def _visit(period: Period, time_zone: str, booked_at: datetime) -> dict[str, Any]:
    place = zone(time_zone)
    local = period.start.astimezone(place)
    return {
        "visit_start": period.start,
        "visit_end": period.end,
        "time_zone": time_zone,
        "local_date": local.date(),
        "local_weekday": local.isoweekday(),
        "local_hour": local.hour,
        "lead_days": (local.date() - booked_at.astimezone(place).date()).days,
    }


def event_row(recorded: Recorded, part: str) -> tuple[Any, ...]:
    """What is told of an event: no ids but the appointment's, and no one's words."""
    event = recorded.event
    about, says_who = _tells(type(event))
    return (
        recorded.position,
        recorded.organization,
        recorded.stream.partition("/")[0],
        event.NAME,
        event.appointment_id if about else NOBODY,  # type: ignore[attr-defined]
        str(event.by) if says_who else "",  # type: ignore[attr-defined]
        _microseconds(recorded.occurred_at),
        _microseconds(recorded.recorded_at),
        part,
    )


@cache
def _tells(kind: type[Event]) -> tuple[bool, bool]:
    """Whether an event of this kind is about one appointment, and whether it says which side acted."""
    return issubclass(kind, AppointmentEvent | ReminderSent), "by" in kind.model_fields


@dataclass(frozen=True, slots=True)
class Count:
    """Visits in one group, and what became of them. `visits` are all that were not called off: booked, under way,
    completed or missed. `key` is a weekday (1 is Monday), a lead band's first day, …"""

    key: Any
    visits: int
    completed: int
    no_shows: int
    with_message: int


class Facts(Model):
    """`client` is for filling and `reader` for questions, each with a session of its own, both on the same server.

    Their calls block, so they are made in threads; `close` waits for the last.
    """

    name = "facts"
    batch = 10_000
    # Every insert makes a part that ClickHouse merges later, so many small ones wait a little for each other.
    linger = 0.03
    pulse = 60.0
    look_every = 0.1
    REMEMBERED: ClassVar[int] = 20_000

    def __init__(
        self, client: Client, reader: Client, *, database: str = "daybook", generation: int | None = None
    ) -> None:
        super().__init__()
        self._client = client
        self._reader = reader
        self._database = database
        self._generation = generation
        self._live: int | None = None
        self._prepared: int | None = None
        self._known: dict[tuple[str, UUID], Fact] = {}
        self._filling = ThreadPoolExecutor(1, "facts-filling")
        self._asking = ThreadPoolExecutor(1, "facts-asking")

    async def close(self) -> None:
        await asyncio.to_thread(self._filling.shutdown)
        await asyncio.to_thread(self._asking.shutdown)

    async def _fill(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._filling, work, *arguments)

    # Filling

    def forget(self) -> None:
        super().forget()
        self._known.clear()
        self._live = self._prepared = None

    async def positions(self) -> Mapping[str, int]:
        found: Mapping[str, int] = await self._fill(self._positions)
        return found

    def _positions(self) -> Mapping[str, int]:
        self._live = None
        rows = _rows(self._client, f"SELECT part, max(position) FROM {self._progress()} GROUP BY part")  # noqa: S608
        found = {row[0]: int(row[1]) for row in rows}
        if not found.keys() - {""}:
            # The whole log in order: its last row says it. Found from the end, however many there are.
            last = _rows(
                self._client,
                f"SELECT position FROM {self._events()} WHERE part = '' ORDER BY position DESC LIMIT 1",  # noqa: S608
            )
            if last:
                found[""] = max(found.get("", 0), int(last[0][0]))
        return found

    async def _apply(self, fresh: Sequence[Recorded], part: str, at: int, upto: int) -> None:
        await self._fill(self._apply_now, {part: Portion(fresh, upto)}, {part: at})

    async def apply_parts(self, portions: Mapping[str, Portion]) -> int:
        """All parts in one insert a table: many small inserts are what ClickHouse suffers from."""
        fresh: dict[str, Portion] = {}
        kept: dict[str, int] = {}
        began = time.monotonic()
        for part, (events, upto) in portions.items():
            at = await self._reached(part)
            if upto > at:
                fresh[part] = Portion([one for one in events if one.position > at], upto)
                kept[part] = self._kept(part)
        try:
            await self._fill(self._apply_now, fresh, kept)
        except Poison:
            # Which parts are written is told by applying each alone.
            self.forget()
            return await super().apply_parts(portions)
        except BaseException:
            self.forget()
            raise
        for part, portion in fresh.items():
            self._note(part, portion.upto)
        self._tell([event for portion in fresh.values() for event in portion.events], began)
        return sum(len(portion.events) for portion in fresh.values())

    def _apply_now(self, portions: Mapping[str, Portion], kept: Mapping[str, int]) -> None:
        if self._prepared != self._number():
            self._prepare(self._number())
        told = [(recorded, part) for part, (events, _) in portions.items() for recorded in events]
        wanted = {
            (recorded.organization, recorded.event.appointment_id)
            for recorded, _ in told
            # A stream that starts in this batch is folded from its first event on, whatever the table holds of it: rows
            # are replaced by position, so an older state written again never shows.
            if isinstance(recorded.event, AppointmentEvent) and recorded.version > 1
        }
        before = self._facts(wanted)
        now: dict[tuple[str, UUID], Fact] = {}
        events: list[tuple[Any, ...]] = []
        poison: Poison | None = None
        for recorded, part in told:
            try:
                row, event = event_row(recorded, part), recorded.event
                if isinstance(event, AppointmentEvent):
                    key = (recorded.organization, event.appointment_id)
                    known = now.get(key) or (before.get(key) if recorded.version > 1 else None)
                    if follows(known.version if known else 0, recorded):
                        now[key] = fold(known, recorded)
                events.append(row)
            except Exception as error:  # a fault of ours or of the event: either way this model stops here, in the open
                poison = Poison(recorded.position, recorded.event.NAME, error)
                break
        if now:
            columns: list[Sequence[Any]] = list(zip(*now.values(), strict=True))
            for index in _INSTANTS:
                columns[index] = [None if one is None else _microseconds(one) for one in columns[index]]
            self._insert(self._appointments(), columns, _COLUMNS)
        # By position, so that what is left out by a crash is never before what is there.
        events.sort()
        for some in _by_month(events):
            self._insert(self._events(), list(zip(*some, strict=True)), _EVENT_COLUMNS)
        last = events[-1][0] if events else 0
        if poison is None:
            self._go_on({part: upto for part, (_, upto) in portions.items()}, kept, last)
        elif len(portions) == 1:
            self._go_on(dict.fromkeys(portions, last), kept, last)
        for key, fact in now.items():
            self._known.pop(key, None)
            self._known[key] = fact
        for key in list(islice(self._known, max(0, len(self._known) - self.REMEMBERED))):
            del self._known[key]
        if poison is not None:
            raise poison

    def _go_on(self, reached: Mapping[str, int], kept: Mapping[str, int], last: int) -> None:
        """Write down how far parts have come. Of the whole log the last event says it, unless more is known."""
        rows = {part: upto for part, upto in reached.items() if upto > kept[part] and (part or upto > last)}
        if any(rows) and (floor := self._kept("")):
            # Parts count from here on, above what the whole log had come to.
            rows[""] = floor
        if rows:
            self._insert(self._progress(), [list(rows), list(rows.values())], ("part", "position"))

    def _facts(self, wanted: Iterable[tuple[str, UUID]]) -> dict[tuple[str, UUID], Fact]:
        found: dict[tuple[str, UUID], Fact] = {}
        missing: dict[str, list[UUID]] = {}
        for key in wanted:
            if (known := self._known.get(key)) is not None:
                found[key] = known
            else:
                missing.setdefault(key[0], []).append(key[1])
        for organization, ids in missing.items():
            for start in range(0, len(ids), 1000):
                some = ",".join(f"'{key}'" for key in ids[start : start + 1000])
                rows = self._client.query(
                    f"SELECT {', '.join(_COLUMNS)} FROM {self._appointments()}"  # noqa: S608
                    f" WHERE organization = %(organization)s AND appointment_id IN ({some})"
                    " ORDER BY position DESC LIMIT 1 BY appointment_id",
                    {"organization": organization},
                ).result_rows
                for row in rows:
                    fact = _fact(row)
                    found[organization, fact.appointment_id] = fact
        return found

    def _insert(self, table: str, columns: Sequence[Sequence[Any]], names: Sequence[str]) -> None:
        self._client.insert(table, columns, column_names=list(names), column_oriented=True, settings=_ALONE)

    # Generations

    def _appointments(self) -> str:
        return f"{self._database}.appointment_facts_{self._number()}"

    def _events(self) -> str:
        return f"{self._database}.event_facts_{self._number()}"

    def _progress(self) -> str:
        return f"{self._database}.progress_facts_{self._number()}"

    def _number(self) -> int:
        if self._generation is not None:
            return self._generation
        if self._live is None:
            rows = _rows(self._client, f"SELECT max(generation) FROM {self._database}.facts_generations")  # noqa: S608
            self._live = max(1, int(rows[0][0])) if rows else 1
        return self._live

    def _prepare(self, generation: int) -> None:
        self._client.command(f"CREATE DATABASE IF NOT EXISTS {self._database}")
        self._client.command(
            f"CREATE TABLE IF NOT EXISTS {self._database}.facts_generations"
            " (generation UInt32, at DateTime64(6, 'UTC') DEFAULT now64(6)) ENGINE = MergeTree ORDER BY generation"
        )
        self._client.command(
            f"CREATE TABLE IF NOT EXISTS {self._database}.appointment_facts_{generation} ({_TYPES})"
            " ENGINE = ReplacingMergeTree(position) PARTITION BY toYYYYMM(first_recorded_at)"
            " ORDER BY (organization, appointment_id) SETTINGS index_granularity = 1024"
        )
        self._client.command(
            f"CREATE TABLE IF NOT EXISTS {self._database}.event_facts_{generation} ({_EVENT_TYPES})"
            " ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(recorded_at) ORDER BY position"
        )
        self._client.command(
            f"CREATE TABLE IF NOT EXISTS {self._database}.progress_facts_{generation}"
            " (part LowCardinality(String), position UInt64) ENGINE = ReplacingMergeTree(position) ORDER BY part"
        )
        if self._generation is None:
            self._show(generation)
        self._prepared = generation

    def _show(self, generation: int) -> None:
        """Point the analysts' views at a generation. `messages_sent` is counted when it is asked for."""
        self._client.command(
            f"CREATE OR REPLACE VIEW {self._database}.events AS"  # noqa: S608
            f" SELECT * FROM {self._database}.event_facts_{generation} FINAL"
        )
        self._client.command(
            f"CREATE OR REPLACE VIEW {self._database}.appointments AS"  # noqa: S608
            f" SELECT facts.*, messages.messages_sent AS messages_sent"
            f" FROM {self._database}.appointment_facts_{generation} AS facts FINAL LEFT JOIN ("
            "SELECT organization, appointment_id, uniqExact(position) AS messages_sent"
            f" FROM {self._database}.event_facts_{generation} WHERE name = '{ReminderSent.NAME}'"
            " GROUP BY organization, appointment_id"
            ") AS messages USING (organization, appointment_id)"
        )

    async def next_generation(self) -> Self:
        await self.clean()
        made: Self = await self._fill(self._next)
        return made

    def _next(self) -> Self:
        self._live = None
        number = self._number() + 1
        made = type(self)(self._client, self._reader, database=self._database, generation=number)
        # One session, one thread: both fill through the same client.
        made._filling, made._asking = self._filling, self._asking
        made._prepare(number)
        return made

    async def take_over(self, filled: Self) -> None:
        await self._fill(self._switch, filled._number())
        self._known = filled._known
        self._at = filled._at

    def _switch(self, generation: int) -> None:
        self._client.insert(f"{self._database}.facts_generations", [[generation]], column_names=["generation"])
        self._live = self._prepared = generation
        self._show(generation)

    async def clean(self) -> None:
        await self._fill(self._clean)

    def _clean(self) -> None:
        self._live = None
        live = self._number()
        tables = self._client.query(
            "SELECT name FROM system.tables WHERE database = %(database)s"
            " AND match(name, '^(appointment|event|progress)_facts_[0-9]+$')",
            {"database": self._database},
        ).result_rows
        for (name,) in tables:
            if int(name.rpartition("_")[2]) != live:
                self._client.command(f"DROP TABLE IF EXISTS {self._database}.{name} SYNC")

    # Questions

    async def _ask(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """The answer; empty while nothing has been filled yet."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._asking, _rows, self._reader, sql, parameters)

    async def fact(self, organization: str, appointment_id: UUID) -> Fact | None:
        rows = await self._ask(
            f"SELECT * EXCEPT messages_sent FROM {self._database}.appointments"  # noqa: S608
            " WHERE organization = %(organization)s AND appointment_id = %(id)s",
            {"organization": organization, "id": str(appointment_id)},
        )
        return _fact(rows[0]) if rows else None

    async def by_weekday(self, organization: str, first: date, last: date) -> Sequence[Count]:
        """Visits by the local weekday on which they start; both local dates are included. 1 is Monday."""
        return await self._counted(organization, first, last, "local_weekday")

    async def by_lead_time(self, organization: str, first: date, last: date) -> Sequence[Count]:
        """Visits by the local days from booking to visit, in `LEAD_BANDS`; `key` is a band's first day."""
        bounds = [low for low, _ in LEAD_BANDS]
        band = f"multiIf({', '.join(f'lead_days >= {low}, {low}' for low in reversed(bounds[1:]))}, 0)"
        return await self._counted(organization, first, last, band)

    async def by_local_hour(self, organization: str, first: date, last: date) -> Sequence[Count]:
        return await self._counted(organization, first, last, "local_hour")

    async def _counted(self, organization: str, first: date, last: date, key: str) -> Sequence[Count]:
        rows = await self._ask(
            f"SELECT {key} AS key, count(), countIf(completed), countIf(no_show), countIf(messages_sent > 0)"  # noqa: S608
            f" FROM {self._database}.appointments WHERE organization = %(organization)s"
            " AND local_date BETWEEN %(first)s AND %(last)s"
            " AND status IN ('booked', 'checked_in', 'in_progress', 'completed', 'no_show')"
            " GROUP BY key ORDER BY key",
            {"organization": organization, "first": first, "last": last},
        )
        return [Count(*row) for row in rows]

    async def by_status(self, organization: str, first: date, last: date) -> Mapping[str, int]:
        """Appointments of every status by the local date of the visit, both dates included."""
        rows = await self._ask(
            f"SELECT status, count() FROM {self._database}.appointments WHERE organization = %(organization)s"  # noqa: S608
            " AND local_date BETWEEN %(first)s AND %(last)s GROUP BY status ORDER BY status",
            {"organization": organization, "first": first, "last": last},
        )
        return {row[0]: row[1] for row in rows}

    async def messages_sent(self, organization: str, since: datetime, until: datetime) -> int:
        """Messages that left in [since, until), by when they left."""
        rows = await self._ask(
            f"SELECT uniqExact(position) FROM {self._database}.events WHERE organization = %(organization)s"  # noqa: S608
            f" AND name = '{ReminderSent.NAME}'"
            f" AND occurred_at >= {_instant('since')} AND occurred_at < {_instant('until')}",
            {"organization": organization, "since": since.isoformat(), "until": until.isoformat()},
        )
        return int(rows[0][0]) if rows else 0

    async def event_counts(self, organization: str) -> Mapping[str, int]:
        """How many events of each name the log holds."""
        rows = await self._ask(
            f"SELECT name, count() FROM {self._database}.events WHERE organization = %(organization)s"  # noqa: S608
            " GROUP BY name ORDER BY name",
            {"organization": organization},
        )
        return {row[0]: row[1] for row in rows}


def _rows(client: Client, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
    """The answer; empty where the table is not there yet."""
    try:
        rows: Sequence[Sequence[Any]] = client.query(sql, dict(parameters or {})).result_rows
    except DatabaseError as error:
        if error.code not in (_UNKNOWN_TABLE, _UNKNOWN_DATABASE):
            raise
        return ()
    return rows


def _instant(parameter: str) -> str:
    # As text with its offset: a datetime would be read in the machine's own zone.
    return f"parseDateTime64BestEffort(%({parameter})s, 6, 'UTC')"


def _microseconds(instant: datetime) -> int:
    """As ClickHouse counts them, since 1970; made here, because the client takes three times as long."""
    since = instant - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _by_month(events: Sequence[tuple[Any, ...]]) -> Iterable[Sequence[tuple[Any, ...]]]:
    """Events in order, cut where the partition changes: an insert that spans two could leave the later one alone."""
    if events and _month(events[0]) == _month(events[-1]):
        return [events]
    return [list(some) for _, some in groupby(events, _month)]


def _month(row: tuple[Any, ...]) -> tuple[int, int]:
    recorded_at = datetime.fromtimestamp(row[-2] // 1_000_000, UTC)
    return recorded_at.year, recorded_at.month


def _fact(row: Sequence[Any]) -> Fact:
    values = list(row)
    for index in _INSTANTS:
        if values[index] is not None:
            # ClickHouse's UTC comes back without a zone.
            values[index] = values[index].replace(tzinfo=UTC)
    return Fact(*values)
