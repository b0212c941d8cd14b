"""Knows how far the log has come, and wakes those who wait for more.

In: this process's own commits and PostgreSQL's notifications of others'. Out: the head.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import AsyncConnection

from domain.ports import LogUnavailable
from infra.clock import DatabaseClock
from infra.event_log.connections import connect
from infra.event_log.statements import CHANNEL

_HEAD = "SELECT position, clock_timestamp() FROM log_head"
_LOOK_AGAIN = 15.0
_PAUSE = 0.5

_log = logging.getLogger(__name__)


class Watch:
    """One listening connection for the whole process. While it is lost, the head is looked up every half second."""

    def __init__(self, dsn: str, clock: DatabaseClock) -> None:
        self._dsn = dsn
        self._clock = clock
        self._seen = 0
        self._waiting: dict[asyncio.Future[None], int] = {}
        self._listening = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # Called with each new head, from the event loop's thread.
        self.listeners: set[Callable[[int], None]] = set()

    @property
    def seen(self) -> int:
        """The last position known to this process."""
        return self._seen

    async def open(self, timeout: float) -> None:
        """Start listening. Raises `LogUnavailable` when the log is out of reach for `timeout` seconds."""
        self._task = asyncio.create_task(self._run())
        try:
            await asyncio.wait_for(self._listening.wait(), timeout)
        except TimeoutError:
            await self.close()
            raise LogUnavailable("the log can't be reached") from None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def advance(self, position: int) -> None:
        """The log has come to `position`."""
        if position > self._seen:
            self._seen = position
            for listener in tuple(self.listeners):
                listener(position)
            for future, after in self._waiting.items():
                if after < position and not future.done():
                    future.set_result(None)

    async def wait(self, after: int, timeout: float) -> int:
        """The head, as soon as it is past `after`. Raises `LogUnavailable` when nothing could be heard."""
        if self._seen > after:
            return self._seen
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = after
        try:
            await asyncio.wait((future,), timeout=timeout)
        finally:
            del self._waiting[future]
        if self._seen <= after and not self._listening.is_set():
            raise LogUnavailable("the log can't be reached")
        return self._seen

    async def _run(self) -> None:
        while True:
            connection: AsyncConnection[Any] | None = None
            try:
                connection = await connect(self._dsn, "watch", timezone="UTC", statement_timeout="10s")
                await connection.execute(f"LISTEN {CHANNEL}".encode())
                while True:
                    await self._look(connection)
                    self._listening.set()
                    async for notice in connection.notifies(timeout=_LOOK_AGAIN):
                        self.advance(int(notice.payload))
            except (psycopg.Error, OSError) as error:
                if self._listening.is_set():
                    _log.warning("the log's notifications are lost (%s)", type(error).__name__)
            finally:
                self._listening.clear()
                if connection is not None:
                    await connection.close()
            await asyncio.sleep(_PAUSE)

    async def _look(self, connection: AsyncConnection[Any]) -> None:
        before = time.monotonic()
        row = await (await connection.execute(_HEAD, binary=True)).fetchone()
        if row is not None:
            self._clock.observe(row[1], before, time.monotonic())
            self.advance(row[0])
