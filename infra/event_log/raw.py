"""The log's rows as they are stored, for whoever passes them on unopened. Implements `streams.relay.Rows`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

import psycopg

from domain.ports import LogUnavailable
from infra.event_log.connections import unavailable
from infra.event_log.rows import stream_in
from infra.event_log.scan import position_in, row_and_hash, tuples
from streams.relay import Row

_SETTINGS: Final = "SET statement_timeout = '30s'"


class Heads(Protocol):
    """Whatever knows how far the log has come."""

    async def head(self) -> int: ...

    async def wait(self, after: int, timeout: float) -> int: ...


class RawLog:
    """`dsn` is entered as the application's role; `heads` is the log itself."""

    def __init__(self, dsn: str, heads: Heads) -> None:
        self._dsn = dsn
        self._heads = heads
        self._connection: psycopg.Connection[Any] | None = None
        self._reading = asyncio.Lock()

    async def rows(self, after: int, limit: int) -> Sequence[Row]:
        # Shielded: a thread can't be broken off, and its connection must not be used by another meanwhile.
        return await asyncio.shield(asyncio.ensure_future(self._alone(after, limit)))

    async def head(self) -> int:
        return await self._heads.head()

    async def wait(self, after: int, timeout: float) -> int:
        return await self._heads.wait(after, timeout)

    async def close(self) -> None:
        async with self._reading:
            if self._connection is not None:
                await asyncio.to_thread(self._connection.close)
                self._connection = None

    async def _alone(self, after: int, limit: int) -> Sequence[Row]:
        async with self._reading:
            return await asyncio.to_thread(self._read, after, limit)

    def _read(self, after: int, limit: int) -> Sequence[Row]:
        try:
            if self._connection is None:
                self._connection = psycopg.connect(
                    self._dsn,
                    autocommit=True,
                    connect_timeout=3,
                    application_name="daybook raw",
                    tcp_user_timeout=15_000,
                    keepalives_idle=5,
                    keepalives_interval=3,
                    keepalives_count=3,
                )
                self._connection.execute(_SETTINGS)
            found = []
            for data in tuples(self._connection, after, after + limit):
                row, _ = row_and_hash(data)
                found.append(Row(position_in(row), stream_in(row), row))
        except (psycopg.Error, OSError) as error:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if unavailable(error):
                raise LogUnavailable("the log can't be reached") from error
            raise
        return found
