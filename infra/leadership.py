"""One process at a time. In: work that must not be done twice at once. Out: its turn, for as long as it is sure.

The turn is an advisory lock of PostgreSQL on a connection of its own, and ends with it. A leader that can't reach the
database stops its work; the next one starts when the database has seen the connection end, or has ended it itself
because it heard nothing from a leader that is frozen. So for a moment two may believe that it is theirs: what they do
must bear that, or be fenced by what it writes to.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Final, Self

import psycopg
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg import AsyncConnection

from infra.event_log.connections import connect

_LOOK_EVERY: Final = 1.0
_PATIENCE: Final = 5.0
# Longer than a leader is ever silent while it runs.
_SILENCE: Final = "6s"
_log = logging.getLogger("daybook.leadership")


class Leader:
    """Does `work` while it leads, from entering to leaving; stands by otherwise. An async context manager.

    `unless` are errors of entering `work` that mean: not yet.
    """

    def __init__(
        self,
        dsn: str,
        name: str,
        work: Callable[[], AbstractAsyncContextManager[object]],
        *,
        unless: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._key = int.from_bytes(hashlib.sha256(f"daybook {name}".encode()).digest()[:8], signed=True)
        self._work = work
        self._unless = unless
        self._task: asyncio.Task[None] | None = None
        self.leads = False
        self.metrics: Collector = _Metrics(self)

    @property
    def name(self) -> str:
        return self._name

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"leader of {self._name}")
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                await self._stand()
            except (psycopg.Error, OSError, TimeoutError) as error:
                _log.warning("%s: the database is out of reach (%s)", self._name, type(error).__name__)
            except self._unless as error:
                _log.warning("%s can't start yet (%s)", self._name, type(error).__name__)
            await asyncio.sleep(_LOOK_EVERY)

    async def _stand(self) -> None:
        """Wait for the turn, and do the work until the turn is lost."""
        async with asyncio.timeout(_PATIENCE):
            connection = await connect(self._dsn, f"leader of {self._name}", idle_session_timeout=_SILENCE)
        try:
            while not await self._asked(connection, "SELECT pg_try_advisory_lock(%s)", self._key):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_EVERY)
            _log.info("%s: this process leads", self._name)
            async with self._work():
                self.leads = True
                try:
                    while True:
                        await asyncio.sleep(_LOOK_EVERY)
                        await self._asked(connection, "SELECT true")
                finally:
                    self.leads = False
                    _log.info("%s: this process leads no more", self._name)
        finally:
            # Not a clean good-bye, which waits for a server that may hang: the socket ends, and the lock with it.
            connection.pgconn.finish()

    async def _asked(self, connection: AsyncConnection[Any], question: str, *parameters: int) -> bool:
        async with asyncio.timeout(_PATIENCE):
            cursor = await connection.execute(question.encode(), parameters)
            row = await cursor.fetchone()
        return bool(row and row[0])


class _Metrics(Collector):
    def __init__(self, leader: Leader) -> None:
        self._leader = leader

    def collect(self) -> Iterable[Metric]:
        leads = GaugeMetricFamily("daybook_leads", "1 while this process has the turn.", labels=["what"])
        leads.add_metric([self._leader.name], int(self._leader.leads))
        yield leads
