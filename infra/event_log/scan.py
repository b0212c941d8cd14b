"""The log's rows as the very bytes that were hashed, straight out of PostgreSQL's binary COPY."""

from __future__ import annotations

import select
from collections.abc import Iterator
from struct import Struct
from typing import Any, Final

import psycopg
from psycopg.pq import ExecStatus

from infra.event_log.rows import COLUMNS, COPY_HEADER

# Where the first column, the position, stands in a row v1; the last, recorded_at, is its last eight bytes.
INT8: Final = Struct(">q")
POSITION_AT: Final = 4
_ROWS: Final = f"COPY (SELECT {', '.join(COLUMNS)} FROM {{}} WHERE position > {{}} AND position <= {{}}"  # noqa: S608

# A tuple is the count of its fields, row v1, and the field hash; every field starts with its length.
_COUNT: Final = 2
_HASH_FIELD: Final = 36
_LENGTH: Final = Struct(">i")
_HASH_LENGTH: Final = _LENGTH.pack(32)


def tuples(connection: psycopg.Connection[Any], after: int, upto: int, table: str = "all_events") -> Iterator[bytes]:
    """The COPY tuples of the positions after `after` up to `upto`, in order. Is to be read to its end.

    `table` is a trusted name: what is in use (`events`), what is archived (`archived_events`), a part of it, or all."""
    query = _ROWS.format(table, int(after), int(upto)) + " ORDER BY position) TO STDOUT (FORMAT BINARY)"
    pgconn = connection.pgconn
    with connection.cursor() as cursor, cursor.copy(query.encode()):
        # Through libpq itself: psycopg's own iteration costs more than the hashing does.
        take, socket = pgconn.get_copy_data, pgconn.socket
        first = True
        while True:
            length, data = take(1)
            if length > 0:
                row = bytes(data)
                if first:
                    row, first = row.removeprefix(COPY_HEADER), False
                if len(row) > _COUNT:
                    yield row
            elif length == 0:
                select.select((socket,), (), ())
                pgconn.consume_input()
            else:
                break
        while (result := pgconn.get_result()) is not None:
            if result.status != ExecStatus.COMMAND_OK:
                raise psycopg.errors.error_from_result(result)


def row_and_hash(data: bytes) -> tuple[bytes, bytes]:
    """Row v1 and the stored hash. A hash that is not of 32 bytes was tampered with, and comes back empty."""
    if data[-_HASH_FIELD:-32] == _HASH_LENGTH:
        return data[_COUNT:-_HASH_FIELD], data[-32:]
    end = _COUNT
    for _ in range(len(COLUMNS) - 1):
        (length,) = _LENGTH.unpack_from(data, end)
        end += 4 + max(length, 0)
    return data[_COUNT:end], b""


def position_in(row: bytes) -> int:
    """The position in a row v1."""
    return int(INT8.unpack_from(row, POSITION_AT)[0])


def recorded_at_in(row: bytes) -> int:
    """The last column of a row v1, in microseconds since 2000-01-01Z."""
    return int(INT8.unpack_from(row, len(row) - 8)[0])


def with_position(row: bytes, position: int) -> bytes:
    """The row v1 as it would be at another position."""
    return row[:POSITION_AT] + INT8.pack(position) + row[POSITION_AT + 8 :]
