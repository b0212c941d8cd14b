"""Inquiries answered by the database itself, so that only what fits is read out and opened.

In: an inquiry. Out: its events, in order, as they stood at one moment. Implements `domain.inquiry.Inquiries`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from domain.inquiry import Inquiry, InquiryTooLong
from domain.ports import LogUnavailable, Recorded, UnreadableEvent
from infra.event_log.connections import DETACHED, Detached, application_name, unavailable
from infra.event_log.log import PostgresEventLog
from infra.event_log.reader import Row
from infra.event_log.rows import COLUMNS
from streams.deadletters import Unreadable

_BITE: Final = 500
_COLUMNS: Final = ", ".join(f"e.{column}" for column in COLUMNS[:-1])
# As the reader's question by position: what lies in a detached part is refused, not left out in silence.
_FROM: Final = (
    f"SELECT {_COLUMNS} FROM all_events AS e WHERE e.position > greatest(%(after)s, {{first}})"  # noqa: S608
    " AND e.position <= {last} AND NOT EXISTS (SELECT FROM archive_parts AS p WHERE p.detached_at IS NOT NULL"
    " AND p.upto > greatest(%(after)s, {first}) AND refuse_detached())"
)
_BEFORE: Final = "(SELECT position_at(%(first)s::timestamptz - interval '1 microsecond'))"
_UNTIL: Final = "(SELECT position_at(%(last)s::timestamptz))"
_NO_END: Final = str(2**63 - 1)
_PERSON: Final = (
    "(e.actor = %(person)s OR e.on_behalf_of = %(person)s OR strpos(e.stream, %(person)s) > 0"
    " OR position(convert_to(%(person)s, 'UTF8') IN e.payload) > 0)"
)


class LogInquiries:
    """`dsn` is entered as the application's role; `log` opens what is found. `patience` is how many seconds the
    database may work on an answer, or on a part of it; without it, as long as it takes."""

    def __init__(self, dsn: str, log: PostgresEventLog, *, patience: float | None = None) -> None:
        self._dsn = dsn
        self._log = log
        # Zero is PostgreSQL's word for no bound.
        self._bound = "0" if patience is None else f"{max(1, round(1000 * patience))}ms"

    async def answered(self, inquiry: Inquiry) -> AsyncIterator[Recorded]:
        """See the port."""
        async for recorded in self.found(inquiry):
            if isinstance(recorded, Unreadable):
                which = recorded.which
                raise UnreadableEvent(which.position if which else 0, which.name if which else "", recorded.error)
            yield recorded

    async def found(self, inquiry: Inquiry) -> AsyncIterator[Recorded | Unreadable]:
        """As `answered`, with what this version of the programme can't read told in its place."""
        async for rows in self.rows(inquiry):
            for recorded in await self._log.opened(rows):
                yield recorded

    async def rows(self, inquiry: Inquiry) -> AsyncIterator[list[Row]]:
        """The rows themselves, some at a time. Raises `LogUnavailable`, `InquiryTooLong`, `Detached`."""
        query, values = _asked(inquiry)
        name = application_name(self._dsn, "inquiry")
        try:
            async with await AsyncConnection.connect(
                self._dsn, autocommit=True, connect_timeout=3, application_name=name
            ) as connection:
                await connection.execute("SET TimeZone = 'UTC'")
                await connection.execute("SELECT set_config('statement_timeout', %s, false)", (self._bound,))
                await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                async with connection.cursor("inquiry") as cursor:
                    await cursor.execute(query.encode(), values, binary=True)
                    while rows := await cursor.fetchmany(_BITE):
                        yield rows
        except psycopg.errors.QueryCanceled as error:
            raise InquiryTooLong("the log did not answer in time") from error
        except (psycopg.Error, OSError) as error:
            if isinstance(error, psycopg.Error) and error.sqlstate == DETACHED:
                raise Detached("these events lie in a detached part of the archive") from error
            if unavailable(error):
                raise LogUnavailable("the log can't be reached") from error
            raise


def _asked(inquiry: Inquiry) -> tuple[str, dict[str, Any]]:
    first = "0" if inquiry.first is None else _BEFORE
    last = _NO_END if inquiry.last is None else _UNTIL
    query = _FROM.format(first=first, last=last)
    values: dict[str, Any] = {"after": inquiry.after, "first": inquiry.first, "last": inquiry.last}
    if inquiry.upto is not None:
        query += " AND e.position <= %(upto)s"
        values["upto"] = inquiry.upto
    for name in ("organization", "actor", "on_behalf_of", "purpose"):
        if (value := getattr(inquiry, name)) is not None:
            query += f" AND e.{name} = %({name})s"
            values[name] = value
    if inquiry.names:
        query += " AND e.name = ANY(%(names)s)"
        values["names"] = sorted(inquiry.names)
    if inquiry.stream is not None:
        # By its end, since the organization stands in front of it.
        query += " AND e.stream = e.organization || '/' || %(stream)s"
        values["stream"] = inquiry.stream
    if inquiry.person is not None:
        query += f" AND {_PERSON}"
        values["person"] = inquiry.person
    return query + " ORDER BY e.position", values
