"""Row v1: the bytes of an event's row as they are written, hashed and checked.

In: an event's columns. Out: the bytes that PostgreSQL's binary COPY takes and gives, the leaf over them and the chain.
docs/decisions/0001-row-v1-and-chain.md fixes all of it; nothing here may ever change what it gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from struct import Struct
from struct import error as StructError
from typing import Any, Final
from uuid import UUID

from domain.refusals import Invalid

COLUMNS: Final = (
    "position",
    "organization",
    "stream",
    "version",
    "event_id",
    "name",
    "payload",
    "actor",
    "on_behalf_of",
    "purpose",
    "command_id",
    "correlation_id",
    "causation_id",
    "occurred_at",
    "recorded_at",
    "hash",
)
FIRST_HASH: Final = bytes(32)

COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
COPY_TRAILER: Final = b"\xff\xff"

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LENGTH: Final = Struct(">i")
_INT8: Final = Struct(">iq")
_BIGINT: Final = Struct(">q")
_NULL: Final = _LENGTH.pack(-1)
_UUID_LENGTH: Final = _LENGTH.pack(16)
_COUNT: Final = Struct(">h").pack(len(COLUMNS))
_HASH_LENGTH: Final = _LENGTH.pack(32)


@dataclass(frozen=True, slots=True)
class Draft:
    """A row but for what is known only under the lock: its position, version, recorded_at and hash.

    `head` holds the fields organization and stream, `body` those from event_id to occurred_at, both as row v1.
    """

    stream: str
    event_id: UUID
    head: bytes
    body: bytes


def microseconds(instant: datetime) -> int:
    """Microseconds since 2000-01-01T00:00:00Z, as PostgreSQL counts them. The instant is aware."""
    return (instant - _EPOCH) // _MICROSECOND


def instant(count: int) -> datetime:
    """The UTC instant that many microseconds after 2000-01-01T00:00:00Z."""
    return _EPOCH + timedelta(microseconds=count)


@dataclass(frozen=True, slots=True)
class Author:
    """The fields that all rows of one save share, as row v1: the organization, and those from actor to causation_id."""

    organization: bytes
    who: bytes


def author(
    *,
    organization: str,
    actor: str,
    on_behalf_of: str | None,
    purpose: str | None,
    command_id: UUID,
    correlation_id: UUID,
    causation_id: UUID | None,
) -> Author:
    """Raises `Invalid` for text that PostgreSQL can't hold."""
    return Author(
        text(organization),
        b"".join(
            (
                text(actor),
                _NULL if on_behalf_of is None else text(on_behalf_of),
                _NULL if purpose is None else text(purpose),
                _UUID_LENGTH,
                command_id.bytes,
                _UUID_LENGTH,
                correlation_id.bytes,
                _NULL if causation_id is None else _UUID_LENGTH + causation_id.bytes,
            )
        ),
    )


def draft(author: Author, stream: str, event_id: UUID, name: str, payload: bytes, occurred_at: datetime) -> Draft:
    """`stream` is the full name, `organization/kind/id`. Raises `Invalid` for text that PostgreSQL can't hold."""
    return Draft(
        stream,
        event_id,
        author.organization + text(stream),
        b"".join(
            (
                _UUID_LENGTH,
                event_id.bytes,
                _name(name),
                _LENGTH.pack(len(payload)),
                payload,
                author.who,
                _INT8.pack(8, microseconds(occurred_at)),
            )
        ),
    )


def text(value: str) -> bytes:
    """A text field. Raises `Invalid` for a NUL or a lone surrogate, which UTF-8 text in PostgreSQL can't hold."""
    try:
        data = value.encode()
    except UnicodeEncodeError:
        raise Invalid("text holds a lone surrogate") from None
    if b"\x00" in data:
        raise Invalid("text holds a NUL character")
    return _LENGTH.pack(len(data)) + data


@lru_cache(maxsize=1024)
def _name(value: str) -> bytes:
    return text(value)


def row_v1(draft: Draft, position: int, version: int, recorded_at: int) -> bytes:
    """Every column but the hash. `recorded_at` is in microseconds since 2000-01-01Z."""
    return b"".join(
        (
            _INT8.pack(8, position),
            draft.head,
            _INT8.pack(8, version),
            draft.body,
            _INT8.pack(8, recorded_at),
        )
    )


def leaf_of(row: bytes) -> bytes:
    """RFC 9162 §2.1.1: the hash of a leaf starts with a zero byte, so that no leaf is ever taken for a node."""
    return sha256(b"\x00" + row).digest()


def link(previous: bytes, leaf: bytes) -> bytes:
    """The chain's next hash."""
    return sha256(previous + leaf).digest()


def copy_tuple(row: bytes, hash: bytes) -> bytes:
    """The row as binary COPY takes it, its hash last."""
    return b"".join((_COUNT, row, _HASH_LENGTH, hash))


def fields(row: bytes) -> Iterator[bytes | None]:
    """The fields of a row v1 (or of a whole COPY tuple without its count), in order."""
    at, end = 0, len(row)
    while at < end:
        (length,) = _LENGTH.unpack_from(row, at)
        at += 4
        if length < 0:
            yield None
        else:
            yield row[at : at + length]
            at += length


class NotARow(ValueError):
    """Bytes that are no row v1."""


def stream_in(row: bytes) -> str:
    """The full name of the stream in a row v1."""
    # Behind the position, of twelve bytes with its length, and the organization.
    start = 20 + _LENGTH.unpack_from(row, 12)[0]
    return row[start : start + _LENGTH.unpack_from(row, start - 4)[0]].decode()


def _bigint(data: bytes) -> int:
    return int(_BIGINT.unpack(data)[0])


def _uuid(data: bytes) -> UUID:
    return UUID(bytes=data)


def _instant(data: bytes) -> datetime:
    return instant(_bigint(data))


# How each column but the hash is read, and whether it may be missing.
_READERS: Final[tuple[tuple[Callable[[bytes], Any], bool], ...]] = (
    (_bigint, False),
    (bytes.decode, False),
    (bytes.decode, False),
    (_bigint, False),
    (_uuid, False),
    (bytes.decode, False),
    (bytes, False),
    (bytes.decode, False),
    (bytes.decode, True),
    (bytes.decode, True),
    (_uuid, False),
    (_uuid, False),
    (_uuid, True),
    (_instant, False),
    (_instant, False),
)


def command_and_correlation_in(row: bytes) -> tuple[bytes, bytes]:
    """The ids of the command and of what it correlates with, sixteen bytes each, in a row v1."""
    # From the end, two instants of twelve bytes with their lengths; before them the causation, or its absence.
    end = len(row) - 24
    end -= 4 if row[end - 4 : end] == _NULL and row[end - 24 : end - 20] == _UUID_LENGTH else 20
    return row[end - 36 : end - 20], row[end - 16 : end]


def columns(row: bytes) -> tuple[Any, ...]:
    """The columns of a row v1, in the order of `COLUMNS` but the hash; instants are aware, UTC. Raises `NotARow`."""
    found: list[Any] = []
    at, end = 0, len(row)
    try:
        for read, may_lack in _READERS:
            (length,) = _LENGTH.unpack_from(row, at)
            at += 4
            if length >= 0:
                found.append(read(row[at : at + length]))
                at += length
            elif may_lack:
                found.append(None)
            else:
                raise NotARow("not a row v1")
    except (ValueError, OverflowError, StructError) as error:
        raise NotARow("not a row v1") from error
    if at != end or not found[2].startswith(found[1] + "/"):
        raise NotARow("not a row v1")
    return tuple(found)
