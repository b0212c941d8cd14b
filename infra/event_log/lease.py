"""A lease that one process at a time holds: an advisory lock of PostgreSQL on a connection of its own.

The server itself ends the session of a holder that has not been heard of for `PATIENCE` seconds, so one that is frozen
loses the lease though its connection stands. The holder stops counting on it well before. Implements
`streams.relay.Lease`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from typing import Any, Final, Self

import psycopg
from psycopg import AsyncConnection

from domain.ports import LogUnavailable
from infra.event_log.connections import connect

PATIENCE: Final = 6.0
_SURE_FOR: Final = 4.0
_TOUCH_EVERY: Final = 1.0

# The first of the two numbers of every lease's lock; the second says which lease.
_SPACE: Final = 0x6461_7962


class Lease:
    """`number` tells the leases of one database apart."""

    RELAY: Final = 1

    def __init__(self, dsn: str, number: int) -> None:
        self._dsn = dsn
        self._number = number
        self._connection: AsyncConnection[Any] | None = None
        self._sure_until = 0.0
        self._touching: asyncio.Task[None] | None = None

    @classmethod
    def named(cls, dsn: str, name: str) -> Self:
        """A lease told apart by any name."""
        return cls(dsn, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], signed=True))

    @property
    def held(self) -> bool:
        return self._connection is not None and time.monotonic() < self._sure_until

    async def take(self) -> bool:
        if self.held:
            return True
        await self.let_go()
        try:
            connection = await connect(
                self._dsn, "lease", idle_session_timeout=f"{PATIENCE:.0f}s", statement_timeout="3s"
            )
        except (psycopg.Error, OSError) as error:
            raise LogUnavailable("the log can't be reached") from error
        began = time.monotonic()
        try:
            async with asyncio.timeout(_SURE_FOR):
                cursor = await connection.execute("SELECT pg_try_advisory_lock(%s, %s)", (_SPACE, self._number))
                row = await cursor.fetchone()
        except (psycopg.Error, OSError, TimeoutError) as error:
            await _closed(connection)
            raise LogUnavailable("the log can't be reached") from error
        if row is None or not row[0]:
            await _closed(connection)
            return False
        self._connection = connection
        self._sure_until = began + _SURE_FOR
        self._touching = asyncio.create_task(self._touch(connection), name="lease")
        return True

    async def let_go(self) -> None:
        connection, self._connection = self._connection, None
        if self._touching is not None:
            self._touching.cancel()
            await asyncio.wait((self._touching,), timeout=_SURE_FOR)
            self._touching = None
        if connection is not None:
            await _closed(connection)

    async def _touch(self, connection: AsyncConnection[Any]) -> None:
        """Say that we are there, until the server does not answer any more."""
        while True:
            await asyncio.sleep(_TOUCH_EVERY)
            began = time.monotonic()
            try:
                async with asyncio.timeout(_SURE_FOR):
                    await connection.execute("SELECT 1")
            except (psycopg.Error, OSError, TimeoutError):
                self._sure_until = 0.0
                return
            self._sure_until = began + _SURE_FOR


async def _closed(connection: AsyncConnection[Any]) -> None:
    with contextlib.suppress(Exception):
        await asyncio.wait_for(connection.close(), 1.0)
