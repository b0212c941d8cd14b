"""Reads the log: rows out of PostgreSQL, raw. Questions about streams that arrive together are asked as one.

An event that moves into the archive does so in one transaction, and every question here is one statement, which sees
one moment: it meets each event exactly once, wherever it stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Final

from infra.event_log.connections import Connections, swallow
from infra.event_log.rows import COLUMNS

Row = tuple[Any, ...]

_COLUMNS: Final = ", ".join(f"e.{column}" for column in COLUMNS[:-1])
_NO_END: Final = 2**63 - 1
# The ledger tells whether a stream has archived events after the wanted version; only then is the archive looked at.
# Positions are compared so that no index on them is considered: the planner would take it for a part that was empty
# when it made its plan, and read the whole part for one stream's sake once it is full.
_BY_STREAM = (
    f"SELECT {_COLUMNS}, wanted.place FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) WITH ORDINALITY"  # noqa: S608
    " AS wanted(stream, after, upto, place)"
    " LEFT JOIN LATERAL (SELECT s.version FROM archived_streams AS s"
    " WHERE s.stream = wanted.stream AND s.version > wanted.after AND s.first_position <= wanted.upto"
    " AND (s.gone <= wanted.after OR refuse_detached())) AS archived ON true"
    " JOIN LATERAL ("
    "SELECT a.* FROM archived_events AS a WHERE a.stream = wanted.stream AND a.version > wanted.after"
    " AND archived.version IS NOT NULL AND a.position + 0 <= wanted.upto"
    " UNION ALL SELECT h.* FROM events AS h WHERE h.stream = wanted.stream AND h.version > wanted.after"
    " AND h.position <= wanted.upto) AS e ON true"
    " ORDER BY wanted.place, e.version"
)
_BY_POSITION = (
    f"SELECT {_COLUMNS} FROM all_events AS e WHERE e.position > %s"  # noqa: S608
    " AND NOT EXISTS (SELECT FROM archive_parts AS p WHERE p.detached_at IS NOT NULL AND p.upto > %s"
    " AND refuse_detached()) ORDER BY e.position LIMIT %s"
)
_BY_NAME = (
    f"SELECT {_COLUMNS} FROM all_events AS e WHERE e.position > %s AND e.position <= %s"  # noqa: S608
    " AND e.name = ANY(%s::text[]) AND NOT EXISTS (SELECT FROM archive_parts AS p WHERE p.detached_at IS NOT NULL"
    " AND p.upto > %s AND refuse_detached()) ORDER BY e.position"
)
# Steps from one stream's first entry in the index to the next stream's, however long the streams are, and no further
# than the limit: a step is made when its row is asked for.
_STREAMS = (
    "WITH RECURSIVE found(stream) AS ("
    "(SELECT stream FROM events WHERE stream >= %(first)s AND stream <= %(last)s ORDER BY stream {order} LIMIT 1)"
    " UNION ALL SELECT (SELECT e.stream FROM events AS e WHERE e.stream {beyond}"
    " ORDER BY e.stream {order} LIMIT 1) FROM found WHERE found.stream IS NOT NULL"
    ") (SELECT stream FROM found WHERE stream IS NOT NULL LIMIT %(limit)s::bigint)"
    " UNION (SELECT stream FROM archived_streams WHERE stream >= %(first)s AND stream <= %(last)s"
    " ORDER BY stream {order} LIMIT %(limit)s::bigint) ORDER BY stream {order} LIMIT %(limit)s::bigint"
)
FORWARDS = _STREAMS.format(order="ASC", beyond="> found.stream AND e.stream <= %(last)s")
BACKWARDS = _STREAMS.format(order="DESC", beyond="< found.stream AND e.stream >= %(first)s")


@dataclass(slots=True, eq=False)
class _Request:
    after: Mapping[str, int]
    upto: int
    future: asyncio.Future[list[list[Row]]]


class Reader:
    """Rows as tuples of the columns but the hash. Streams are full names. Raises `LogUnavailable`, and `Detached` where
    a part of the answer lies in a part of the archive that was detached."""

    def __init__(self, connections: Connections, *, at_once: int = 3) -> None:
        self._connections = connections
        self._at_once = at_once
        self._asking: set[asyncio.Task[None]] = set()
        self._waiting: list[_Request] = []

    async def streams(
        self, first: str, last: str, *, limit: int | None = None, backwards: bool = False
    ) -> Sequence[str]:
        asked = {"first": first, "last": last, "limit": limit}
        return [row[0] for row in await self._connections.fetch(BACKWARDS if backwards else FORWARDS, asked)]

    async def after(self, position: int, limit: int) -> list[Row]:
        return await self._connections.fetch(_BY_POSITION, (position, position, limit))

    async def named(self, names: Sequence[str], after: int, upto: int) -> list[Row]:
        return await self._connections.fetch(_BY_NAME, (after, upto, list(names), after))

    async def load(self, after: Mapping[str, int], upto: int | None) -> list[list[Row]]:
        """The rows of each stream in `after`, in its order. Calls made while others are under way ride together."""
        loop = asyncio.get_running_loop()
        request = _Request(after, _NO_END if upto is None else upto, loop.create_future())
        if not self._waiting:
            loop.call_soon(self._ask)
        self._waiting.append(request)
        return await request.future

    def _ask(self) -> None:
        if self._waiting and len(self._asking) < self._at_once:
            task = asyncio.create_task(self._answer(self._waiting))
            self._waiting = []
            self._asking.add(task)
            task.add_done_callback(self._asked)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        swallow(task)
        self._ask()

    async def _answer(self, requests: Sequence[_Request]) -> None:
        streams: list[str] = []
        after: list[int] = []
        upto: list[int] = []
        for request in requests:
            streams += request.after
            after += request.after.values()
            upto += [request.upto] * len(request.after)
        try:
            rows = await self._connections.fetch(_BY_STREAM, (streams, after, upto))
        except Exception as error:
            for request in requests:
                if not request.future.done():
                    request.future.set_exception(copy(error))
            return
        found: list[list[Row]] = [[] for _ in streams]
        for row in rows:
            found[row[-1] - 1].append(row)
        start = 0
        for request in requests:
            end = start + len(request.after)
            if not request.future.done():
                request.future.set_result(found[start:end])
            start = end
