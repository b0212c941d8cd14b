"""The log's rows as they are stored, for whoever passes them on unopened; no key is needed. Implements
`streams.relay.Rows`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Self, TypeVar

import psycopg

from domain.ports import LogError, LogUnavailable
from infra.clock import DatabaseClock
from infra.event_log.connections import application_name, unavailable
from infra.event_log.rows import stream_in
from infra.event_log.scan import position_in, row_and_hash, tuples
from infra.event_log.watch import Watch
from streams.relay import Row

T = TypeVar("T")

# As everything that reads the log: by its keys, whatever the planner thinks of a young table.
_SETTINGS: Final = "SET statement_timeout = '30s'; SET enable_seqscan = off; SET jit = off"
_HEAD: Final = "SELECT position FROM log_head"


class PositionsMissing(LogError):
    """The log's rows are not where they should be. Names the first position that is missing."""

    def __init__(self, position: int) -> None:
        super().__init__(f"position {position} is missing in the log")
        self.position = position


class RawLog:
    """Open it inside the event loop that uses it: `async with RawLog(dsn) as log`.

    `dsn` is entered as the application's role; `patience` is how many seconds `wait` looks for the log before
    `LogUnavailable`."""

    def __init__(self, dsn: str, *, patience: float = 5.0) -> None:
        self._dsn = dsn
        self._patience = patience
        self._watch: Watch | None = None
        self._connection: psycopg.Connection[Any] | None = None
        self._asking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._watch is not None:
            await self._watch.close()
            self._watch = None
        async with self._asking:
            await asyncio.to_thread(self._let_go)

    async def rows(self, after: int, limit: int) -> Sequence[Row]:
        return await self._ask(lambda connection: _rows(connection, after, limit))

    async def head(self) -> int:
        return await self._ask(_head)

    async def hash_at(self, position: int) -> bytes | None:
        return await self._ask(lambda connection: _hash_at(connection, position))

    async def wait(self, after: int, timeout: float) -> int:
        if self._watch is None:
            watch = Watch(self._dsn, DatabaseClock())
            await watch.open(self._patience)
            self._watch = watch
        return await self._watch.wait(after, timeout)

    async def _ask(self, question: Callable[[psycopg.Connection[Any]], T]) -> T:
        # Shielded: a thread can't be broken off, and its connection must not be used by another meanwhile.
        return await asyncio.shield(asyncio.ensure_future(self._alone(question)))

    async def _alone(self, question: Callable[[psycopg.Connection[Any]], T]) -> T:
        async with self._asking:
            return await asyncio.to_thread(self._asked, question)

    def _asked(self, question: Callable[[psycopg.Connection[Any]], T]) -> T:
        try:
            if self._connection is None:
                self._connection = psycopg.connect(
                    self._dsn,
                    autocommit=True,
                    connect_timeout=3,
                    application_name=application_name(self._dsn, "raw"),
                    tcp_user_timeout=15_000,
                    keepalives_idle=5,
                    keepalives_interval=3,
                    keepalives_count=3,
                )
                self._connection.execute(_SETTINGS)
            return question(self._connection)
        except (psycopg.Error, OSError) as error:
            self._let_go()
            if unavailable(error):
                raise LogUnavailable("the log can't be reached") from error
            raise

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _rows(connection: psycopg.Connection[Any], after: int, limit: int) -> Sequence[Row]:
    found: list[Row] = []
    for data in tuples(connection, after, after + limit):
        row, link = row_and_hash(data)
        position = position_in(row)
        if position != after + len(found) + 1:
            # Part of the archive was taken away; nobody may think that these are all there are.
            raise PositionsMissing(after + len(found) + 1)
        found.append(Row(position, stream_in(row), row, link))
    return found


def _hash_at(connection: psycopg.Connection[Any], position: int) -> bytes | None:
    found: bytes | None = None
    for data in tuples(connection, position - 1, position):
        _, found = row_and_hash(data)
    return found


def _head(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(_HEAD).fetchone()
    if row is None:
        raise psycopg.OperationalError("the log has no head")
    return int(row[0])
