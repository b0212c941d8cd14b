"""How the log's connections are opened, and which of PostgreSQL's errors mean that it can't be reached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from domain.ports import LogUnavailable

# Classes of SQLSTATE that say nothing about what was asked: connection, transaction rollback, transaction state,
# resources, object in use, operator intervention, system error, and an internal one.
_TRANSIENT = ("08", "25", "40", "53", "55", "57", "58", "XX")

# Everything the log asks finds rows by their keys. Left to itself, the planner may choose to read a whole table while
# that table is young and small, and keep the choice while it grows.
POINT_LOOKUPS: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}

_KEEPALIVE: Final = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
# PostgreSQL itself writes TimeZone and DateStyle, and takes them however they are written.
_SET = (
    "SELECT set_config(known.name, wanted.value, false) FROM unnest(%s::text[], %s::text[]) AS wanted(name, value)"
    " JOIN pg_settings AS known ON lower(known.name) = wanted.name"
)


# SQLSTATE of refuse_detached() in the database.
DETACHED: Final = "ZD001"


class Detached(LogUnavailable):
    """What was asked reaches into a part of the archive that was detached and lies elsewhere. It is never answered in
    part; `daybook log attach` brings it back."""


def service_dsn(dsn: str, service: str) -> str:
    """The same DSN, whose connections say in pg_stat_activity which service they belong to: `daybook relay watch`."""
    return make_conninfo(dsn, application_name=service)


def application_name(dsn: str, name: str) -> str:
    service = conninfo_to_dict(dsn).get("application_name")
    return f"daybook {service} {name}" if service else f"daybook {name}"


async def connect(dsn: str, name: str, **settings: str) -> AsyncConnection[Any]:
    """An autocommit connection with the given server settings, in small letters; one that the server is too old for is
    left out.

    Either side notices within some 15 seconds that the other is gone."""
    connection = await AsyncConnection.connect(
        dsn,
        autocommit=True,
        prepare_threshold=1,
        connect_timeout=3,
        application_name=application_name(dsn, name),
        keepalives_idle=5,
        keepalives_interval=3,
        keepalives_count=3,
        tcp_user_timeout=15_000,
    )
    try:
        names = (*settings, *_KEEPALIVE)
        values = (*settings.values(), *_KEEPALIVE.values())
        await connection.execute(_SET, (list(names), list(values)), prepare=False)
    except BaseException:
        await connection.close()
        raise
    return connection


def unavailable(error: BaseException) -> bool:
    """Whether the error speaks of the server's state and not of the data that was sent."""
    if not isinstance(error, psycopg.Error):
        return isinstance(error, OSError)
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate.startswith(_TRANSIENT)


class Connections:
    """A few connections for reading. Questions that meet a broken one are asked again until `patience` is over, in
    seconds; then the server drops them as well."""

    def __init__(self, dsn: str, name: str, *, size: int = 4, patience: float = 5.0) -> None:
        self._dsn = dsn
        self._name = name
        self._patience = patience
        self._idle: list[AsyncConnection[Any]] = []
        self._free = asyncio.Semaphore(size)
        self._asked: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        if self._asked:
            await asyncio.wait(self._asked, timeout=self._patience)
        while self._idle:
            await self._idle.pop().close()

    async def fetch(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Every row, from the binary protocol. Raises `LogUnavailable` after `patience` seconds, `Detached`, and
        `psycopg.Error` or `UnicodeEncodeError` for what PostgreSQL does not understand."""
        # A task of its own: psycopg answers a cancellation by waiting for the server, which may be the one that hangs.
        task = asyncio.create_task(self._fetch(query, parameters))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        done, _ = await asyncio.wait((task,), timeout=self._patience)
        if not done:
            task.add_done_callback(swallow)
            raise LogUnavailable("the log did not answer in time")
        return task.result()

    async def _fetch(self, query: str, parameters: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
        give_up = time.monotonic() + self._patience
        pause = 0.05
        while True:
            if self._closed:
                raise LogUnavailable("the log is closed")
            async with self._free:
                connection = None
                try:
                    connection = self._idle.pop() if self._idle else await self._connect()
                    cursor = await connection.execute(query.encode(), parameters, binary=True)
                    rows = await cursor.fetchall() if cursor.description else []
                    self._idle.append(connection)
                    return rows
                except (psycopg.Error, OSError) as error:
                    if connection is not None:
                        await connection.close()
                    if isinstance(error, psycopg.Error) and error.sqlstate == DETACHED:
                        raise Detached("these events lie in a detached part of the archive") from error
                    if not unavailable(error):
                        raise
                    # One lost connection speaks for the others: the server was restarted.
                    while self._idle:
                        await self._idle.pop().close()
                    if time.monotonic() + pause > give_up:
                        raise LogUnavailable("the log can't be reached") from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)

    async def _connect(self) -> AsyncConnection[Any]:
        # What nobody waits for any more does not keep the server busy.
        bound = f"{max(1, round(1000 * self._patience))}ms"
        return await connect(self._dsn, self._name, statement_timeout=bound, timezone="UTC", **POINT_LOOKUPS)


def swallow(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
