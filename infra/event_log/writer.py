"""The one writer of the log in a process: many saves in, one transaction, many answers out.

Saves queue up while a batch commits. A batch locks the log's head, decides each of its saves in order against the
heads of their streams, writes the rows of those that pass and answers all. See docs/decisions/0002-group-commit.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from domain.ports import KeyReused, LogError, LogUnavailable, Saved, VersionConflict
from domain.refusals import Invalid
from infra.clock import DatabaseClock
from infra.event_log import statements
from infra.event_log.connections import POINT_LOOKUPS, connect, unavailable
from infra.event_log.rows import (
    COLUMNS,
    COPY_HEADER,
    COPY_TRAILER,
    Draft,
    copy_tuple,
    leaf_of,
    link,
    microseconds,
    row_v1,
)

EMPTY: Final = -1

_COPY = f"COPY events ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"

# What transaction_timeout does since PostgreSQL 17: before, whoever waits in vain ends a writer that is past its time.
_END_STALLED = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    " AND usename = current_user AND application_name LIKE 'daybook%writer' AND pid <> pg_backend_pid()"
    " AND xact_start < clock_timestamp() - interval '4s'"
)
_TRANSACTION_TIMEOUT_SINCE: Final = 17_00_00

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_SWEEP: Final = 0.2

_log = logging.getLogger(__name__)


class TrackingConflict(LogError):
    """The follower has recorded this position, or a later one, before."""


@dataclass(frozen=True, slots=True)
class Remember:
    """What `commands` is to hold of a save: its key and its answer."""

    organization: str
    actor: str
    key: str
    body_hash: bytes
    result: bytes


@dataclass(frozen=True, slots=True)
class Tracked:
    """How far a follower has come; written with the save, and only forward."""

    application: str
    position: int


@dataclass(slots=True, eq=False)
class Ticket:
    """A save in the queue. Streams are full names; `versions`, where given, fixes each draft's version."""

    expected: Mapping[str, int]
    drafts: Sequence[Draft]
    future: asyncio.Future[Saved]
    deadline: float
    versions: Sequence[int] | None = None
    remember: Remember | None = None
    tracked: Tracked | None = None

    def streams(self) -> Iterable[str]:
        yield from self.expected
        if self.versions is not None:
            for draft in self.drafts:
                yield draft.stream

    @property
    def weight(self) -> int:
        return sum(len(draft.body) for draft in self.drafts)


@dataclass(slots=True)
class Stats:
    """Counts since the writer started; `last_batch` is the number of saves in the latest one."""

    saves: int = 0
    events: int = 0
    batches: int = 0
    conflicts: int = 0
    replays: int = 0
    retries: int = 0
    connects: int = 0
    last_batch: int = 0
    largest_batch: int = 0


@dataclass(slots=True)
class _Head:
    position: int
    hash: bytes
    recorded_at: datetime


@dataclass(slots=True)
class _Plan:
    """What a batch is about to write and to answer."""

    head: _Head
    first: int
    rows: list[bytes] = field(default_factory=list)
    first_event: Any = None
    answers: list[tuple[Ticket, Saved | LogError]] = field(default_factory=list)
    remembered: list[tuple[Remember, int | None, int | None]] = field(default_factory=list)
    tracked: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    began: float = 0.0

    @property
    def writes(self) -> bool:
        return bool(self.rows or self.remembered or self.tracked)


_Key = tuple[str, str, str]


class Writer:
    """Appends to the log over one connection of its own. Belongs to the event loop that started it."""

    def __init__(
        self,
        dsn: str,
        clock: DatabaseClock,
        *,
        on_commit: Callable[[int], None] = lambda position: None,
        patience: float = 5.0,
        max_events: int = 4096,
        max_bytes: int = 4 << 20,
        max_streams: int = 200_000,
    ) -> None:
        """`patience` is how many seconds a save may take before its caller hears `LogUnavailable`."""
        self._dsn = dsn
        self._clock = clock
        self._on_commit = on_commit
        self._patience = patience
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._max_streams = max_streams
        self._queue: deque[Ticket] = deque()
        self._current: Sequence[Ticket] = ()
        self._work = asyncio.Event()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._connection: AsyncConnection[Any] | None = None
        self._held_up = False
        # Versions of streams as of the head that this writer left; another writer's batch makes them worthless.
        self._versions: dict[str, int] = {}
        self._position = -1
        self.stats = Stats()
        # Gets what each transaction that wrote took: saves, events, seconds from its first statement to its commit.
        self.on_batch: Callable[[int, int, float], None] | None = None

    @property
    def pending(self) -> int:
        """How many saves wait, those of the transaction under way included."""
        return len(self._queue) + len(self._current)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._sweep())]

    async def close(self) -> None:
        """Take no more saves, finish those in the queue, disconnect."""
        self._closing = True
        self._work.set()
        if self._tasks:
            run, sweep = self._tasks
            await asyncio.gather(run, return_exceptions=True)
            sweep.cancel()
            await asyncio.gather(sweep, return_exceptions=True)
        await self._disconnect()

    async def submit(
        self,
        expected: Mapping[str, int],
        drafts: Sequence[Draft],
        *,
        versions: Sequence[int] | None = None,
        remember: Remember | None = None,
        tracked: Tracked | None = None,
    ) -> Saved:
        """Save all or nothing. Raises `VersionConflict` (full stream names), `KeyReused`, `TrackingConflict`,
        `LogUnavailable`, and `Invalid` for what the database can't hold."""
        if self._closing or not self._tasks:
            raise LogUnavailable("the log is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Saved] = loop.create_future()
        self._queue.append(Ticket(expected, drafts, future, loop.time() + self._patience, versions, remember, tracked))
        self._work.set()
        return await future

    async def _run(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._work.clear()
                await self._work.wait()
            # Those who were just answered get a turn to ask again, so that they ride together.
            await asyncio.sleep(0)
            batch = self._gather()
            if batch:
                self._current = batch
                try:
                    await self._save(batch)
                except Exception:
                    _log.exception("a batch failed in a way that was not foreseen")
                    _refuse(batch, LogUnavailable("the log failed"))
                    await self._disconnect()
                finally:
                    self._current = ()

    def _gather(self) -> list[Ticket]:
        batch: list[Ticket] = []
        events = weight = 0
        while self._queue:
            ticket = self._queue[0]
            if not ticket.future.done():
                events += len(ticket.drafts)
                weight += ticket.weight
                if batch and (events > self._max_events or weight > self._max_bytes):
                    break
                batch.append(ticket)
            self._queue.popleft()
        return batch

    async def _sweep(self) -> None:
        """Answer those who have waited too long, whatever the writer is waiting for."""
        while True:
            await asyncio.sleep(_SWEEP)
            now = asyncio.get_running_loop().time()
            late = [ticket for tickets in (self._current, self._queue) for ticket in tickets if ticket.deadline <= now]
            _refuse(late, LogUnavailable("the log did not answer in time"))

    async def _save(self, batch: Sequence[Ticket]) -> None:
        """Bring a batch to its end, through lost connections. What can't be saved because of its data is found by
        halving, so that it alone fails."""
        pause = _FIRST_PAUSE
        doubtful: _Plan | None = None
        while batch := [ticket for ticket in batch if not ticket.future.done()]:
            try:
                connection = await self._connected()
                if doubtful is not None:
                    if await self._landed(connection, doubtful):
                        self._landing(doubtful)
                        return
                    doubtful = None
                plan = await self._plan(connection, batch)
                if plan.writes:
                    await self._write(connection, plan)
                    doubtful = plan
                    await self._finish(connection, plan)
                else:
                    await connection.execute("COMMIT")
                self._landing(plan)
                return
            except (psycopg.Error, OSError, UnicodeEncodeError) as error:
                if not unavailable(error):
                    doubtful = None
                    await self._forget_and_roll_back()
                    if len(batch) == 1:
                        _refuse(batch, _verdict(error))
                        return
                    middle = len(batch) // 2
                    await self._save(batch[:middle])
                    await self._save(batch[middle:])
                    return
                self.stats.retries += 1
                self._held_up = isinstance(error, psycopg.errors.LockNotAvailable)
                _log.warning("the log is out of reach (%s); trying again", type(error).__name__)
                await self._disconnect()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _connected(self) -> AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            self._forget()
            self._connection = await self._connect()
            self.stats.connects += 1
            if self._held_up and self._connection.info.server_version < _TRANSACTION_TIMEOUT_SINCE:
                await self._connection.execute(_END_STALLED)
        return self._connection

    async def _connect(self) -> AsyncConnection[Any]:
        connection = await connect(
            self._dsn,
            "writer",
            timezone="UTC",
            datestyle="ISO",
            # Under another, whoever waited for the head is refused what it waited for.
            default_transaction_isolation="read committed",
            lock_timeout="2s",
            statement_timeout="4s",
            idle_in_transaction_session_timeout="2s",
            # Between the statements of a batch a stalled writer is not idle; this knows it all the same.
            transaction_timeout="4s",
            synchronous_commit="on",
            standard_conforming_strings="on",
            **POINT_LOOKUPS,
        )
        # psycopg's own would be let go at a rollback, and ours with them.
        connection.prepare_threshold = None
        try:
            await connection.execute(statements.PREPARE)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _disconnect(self) -> None:
        self._forget()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _forget(self) -> None:
        self._versions.clear()
        self._position = -1

    async def _forget_and_roll_back(self) -> None:
        self._forget()
        try:
            if self._connection is not None:
                await self._connection.execute("ROLLBACK")
        except (psycopg.Error, OSError):
            await self._disconnect()

    async def _plan(self, connection: AsyncConnection[Any], batch: Sequence[Ticket]) -> _Plan:
        """Lock the head, look up what the saves depend on, and decide them in order."""
        streams = list(dict.fromkeys(stream for ticket in batch for stream in ticket.streams()))
        keys = [(wanted.organization, wanted.actor, wanted.key) for ticket in batch if (wanted := ticket.remember)]
        followers = list({ticket.tracked.application for ticket in batch if ticket.tracked})
        unknown = [stream for stream in streams if stream not in self._versions]
        asked = ["BEGIN", statements.LOCK, statements.versions(unknown)]
        if keys:
            asked.append(statements.memories(*zip(*keys, strict=True)))
        if followers:
            asked.append(statements.tracked(followers))
        before = time.monotonic()
        answers = await connection.execute(statements.together(asked))
        position, hash, recorded_at = await _first(answers)
        now, found = await _first(answers)
        self._clock.observe(now, before, time.monotonic())
        memories = await _next(answers) if keys else []
        places = dict(await _next(answers)) if followers else {}
        versions = dict(zip(unknown, found, strict=True))
        if position != self._position and len(unknown) < len(streams):
            self._forget()
            known = [stream for stream in streams if stream not in versions]
            again = await connection.execute(statements.versions(known))
            versions.update(zip(known, (await again.fetchall())[0][1], strict=True))
        elif position != self._position:
            self._forget()
        else:
            versions.update((stream, self._versions[stream]) for stream in streams if stream not in versions)
        remembered: dict[_Key, tuple[bytes, Saved]] = {}
        for row in memories:
            remembered[row[0], row[1], row[2]] = (row[3], saved_before(row[4], row[5], row[6], row[7]))
        head = _Head(position, hash, max(recorded_at, now))
        plan = _decide(batch, head, versions, remembered, places)
        plan.began = before
        return plan

    async def _write(self, connection: AsyncConnection[Any], plan: _Plan) -> None:
        if plan.rows:
            async with connection.cursor() as cursor, cursor.copy(_COPY) as rows:
                await rows.write(b"".join((COPY_HEADER, *plan.rows, COPY_TRAILER)))

    async def _finish(self, connection: AsyncConnection[Any], plan: _Plan) -> None:
        head, said = plan.head, []
        if plan.remembered:
            kept = [remember for remember, _, _ in plan.remembered]
            said.append(
                statements.remember(
                    head.recorded_at,
                    (remember.organization for remember in kept),
                    (remember.actor for remember in kept),
                    (remember.key for remember in kept),
                    (remember.body_hash for remember in kept),
                    (remember.result for remember in kept),
                    (first for _, first, _ in plan.remembered),
                    (last for _, _, last in plan.remembered),
                )
            )
        if plan.tracked:
            said.append(statements.track(plan.tracked, plan.tracked.values()))
        if plan.rows:
            said.append(statements.advance(head.position, head.hash, head.recorded_at))
        await connection.execute(statements.together([*said, "COMMIT"]))

    async def _landed(self, connection: AsyncConnection[Any], plan: _Plan) -> bool:
        """Whether a batch was committed whose answer was lost. The lock waits for a server process that may still be
        at it."""
        async with connection.transaction():
            await connection.execute(statements.LOCK)
            if plan.rows:
                found = await connection.execute("SELECT event_id FROM all_events WHERE position = %s", (plan.first,))
                return await found.fetchone() == (plan.first_event,)
            if plan.tracked:
                found = await connection.execute(statements.tracked(plan.tracked))
                return dict(await found.fetchall()) == plan.tracked
            # Keys alone: a second try finds them and answers as the first did.
            return False

    def _landing(self, plan: _Plan) -> None:
        head, stats = plan.head, self.stats
        if len(self._versions) > self._max_streams:
            self._versions.clear()
        self._versions.update(plan.versions)
        self._position = head.position
        stats.batches += 1
        stats.last_batch = len(plan.answers)
        stats.largest_batch = max(stats.largest_batch, stats.last_batch)
        stats.events += len(plan.rows)
        if plan.rows:
            self._on_commit(head.position)
            if self.on_batch is not None:
                self.on_batch(len(plan.answers), len(plan.rows), time.monotonic() - plan.began)
        for ticket, answer in plan.answers:
            if isinstance(answer, Saved):
                stats.saves += 1
                stats.replays += answer.replayed
                if not ticket.future.done():
                    ticket.future.set_result(answer)
            else:
                stats.conflicts += isinstance(answer, VersionConflict)
                if not ticket.future.done():
                    ticket.future.set_exception(answer)


def saved_before(first: int | None, last: int | None, result: bytes, recorded_at: datetime) -> Saved:
    """The answer that `commands` keeps."""
    if first is None or last is None:
        return Saved(0, (), recorded_at, result, replayed=True)
    return Saved(last, range(first, last + 1), recorded_at, result, replayed=True)


def _decide(
    batch: Sequence[Ticket],
    head: _Head,
    versions: dict[str, int],
    remembered: dict[_Key, tuple[bytes, Saved]],
    tracked: Mapping[str, int],
) -> _Plan:
    """Each save in order, on top of those before it. A refused one leaves no trace."""
    plan = _Plan(head, head.position + 1, versions=versions)
    recorded = microseconds(head.recorded_at)
    for ticket in batch:
        wanted = ticket.remember
        key = (wanted.organization, wanted.actor, wanted.key) if wanted else None
        if wanted and key in remembered:
            body_hash, answer = remembered[key]
            same = body_hash == wanted.body_hash
            plan.answers.append((ticket, answer if same else KeyReused("the key was used with another body")))
            continue
        refusal, placed = _placed(ticket, versions)
        if refusal is None and (follower := ticket.tracked) is not None:
            reached = plan.tracked.get(follower.application, tracked.get(follower.application))
            if reached is not None and follower.position <= reached:
                refusal = TrackingConflict("the position was tracked before")
        if refusal is not None:
            plan.answers.append((ticket, refusal))
            continue
        first = head.position + 1
        for draft, version in zip(ticket.drafts, placed, strict=True):
            head.position += 1
            row = row_v1(draft, head.position, version, recorded)
            head.hash = link(head.hash, leaf_of(row))
            plan.rows.append(copy_tuple(row, head.hash))
            versions[draft.stream] = version
            plan.first_event = plan.first_event or draft.event_id
        positions = range(first, head.position + 1)
        saved = Saved(head.position if positions else 0, positions, head.recorded_at, wanted.result if wanted else b"")
        plan.answers.append((ticket, saved))
        if wanted and key:
            last = head.position if positions else None
            plan.remembered.append((wanted, first if positions else None, last))
            remembered[key] = (
                wanted.body_hash,
                saved_before(first if positions else None, last, wanted.result, head.recorded_at),
            )
        if ticket.tracked:
            plan.tracked[ticket.tracked.application] = ticket.tracked.position
    return plan


def _placed(ticket: Ticket, versions: Mapping[str, int]) -> tuple[LogError | None, list[int]]:
    """The versions that the ticket's events take, or why they can't."""
    moved = {
        stream: max(versions[stream], 0)
        for stream, version in ticket.expected.items()
        if max(versions[stream], 0) != version
    }
    if moved:
        return VersionConflict(moved), []
    tops: dict[str, int] = {}
    placed: list[int] = []
    for place, draft in enumerate(ticket.drafts):
        top = tops.get(draft.stream, versions[draft.stream])
        if ticket.versions is None:
            version = max(top, 0) + 1
        else:
            version = ticket.versions[place]
            # A stream of the library may count from 0 or from 1.
            if version != top + 1 and not (top == EMPTY and version == 1):
                return VersionConflict({draft.stream: max(versions[draft.stream], 0)}), []
        tops[draft.stream] = version
        placed.append(version)
    return None, placed


def _verdict(error: Exception) -> Exception:
    """The database's own words may quote the data, so they are not passed on."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    if isinstance(error, UnicodeEncodeError) or (state or "").startswith(("22", "54")):
        return Invalid("the log can't hold this")
    return LogUnavailable(f"the log refused the save ({state})")


def _refuse(tickets: Iterable[Ticket], error: Exception) -> None:
    for ticket in tickets:
        if not ticket.future.done():
            # One exception each: raised in several tasks, one would gather all their tracebacks.
            ticket.future.set_exception(copy(error))


async def _next(answers: psycopg.AsyncCursor[Any]) -> list[tuple[Any, ...]]:
    """The rows of the next statement's answer."""
    answers.nextset()
    return await answers.fetchall()


async def _first(answers: psycopg.AsyncCursor[Any]) -> tuple[Any, ...]:
    rows = await _next(answers)
    if not rows:
        raise psycopg.OperationalError("the log has no head")
    return rows[0]
