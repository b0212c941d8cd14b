"""What a batch says to the database: statements that its connection has prepared, and the words of their calls.

Calls go through PostgreSQL's simple protocol, so one question holds many: `EXECUTE` after `EXECUTE`, one round trip and
one wait. The same in psycopg's pipeline costs the process three times as much. Values that are text travel as
hexadecimal digits, so that nothing in them is ever read as SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

CHANNEL: Final = "daybook_events"

# A stream without events in the table may have all of them in the archive, whose ledger knows its last version.
PREPARE: Final = """
PREPARE daybook_lock AS
    SELECT position, hash, recorded_at FROM log_head FOR UPDATE;

PREPARE daybook_versions(bytea[]) AS
    SELECT clock_timestamp(), ARRAY(
        SELECT coalesce(
            (SELECT max(version) FROM events WHERE stream = wanted.name),
            (SELECT version FROM archived_streams WHERE stream = wanted.name),
            -1)
        FROM (
            SELECT convert_from(raw, 'UTF8') COLLATE "C" AS name, place
            FROM unnest($1) WITH ORDINALITY AS sent(raw, place)
        ) AS wanted ORDER BY place);

PREPARE daybook_memories(bytea[], bytea[], bytea[]) AS
    SELECT organization, actor, key, body_hash, first_position, last_position, result, recorded_at
    FROM commands JOIN (
        SELECT convert_from(a, 'UTF8') COLLATE "C" AS organization, convert_from(b, 'UTF8') COLLATE "C" AS actor,
            convert_from(c, 'UTF8') COLLATE "C" AS key
        FROM unnest($1, $2, $3) AS sent(a, b, c)
    ) AS wanted USING (organization, actor, key);

PREPARE daybook_tracked(bytea[]) AS
    SELECT application, position FROM tracking
    WHERE application = ANY(ARRAY(SELECT convert_from(raw, 'UTF8') FROM unnest($1) AS sent(raw))) FOR UPDATE;

PREPARE daybook_remember(timestamptz, bytea[], bytea[], bytea[], bytea[], bytea[], bigint[], bigint[]) AS
    INSERT INTO commands (organization, actor, key, body_hash, result, first_position, last_position, recorded_at)
    SELECT convert_from(a, 'UTF8'), convert_from(b, 'UTF8'), convert_from(c, 'UTF8'), d, e, f, g, $1
    FROM unnest($2, $3, $4, $5, $6, $7, $8) AS kept(a, b, c, d, e, f, g);

PREPARE daybook_track(bytea[], bigint[]) AS
    INSERT INTO tracking (application, position)
    SELECT convert_from(a, 'UTF8'), b FROM unnest($1, $2) AS moved(a, b)
    ON CONFLICT (application) DO UPDATE SET position = excluded.position;

PREPARE daybook_advance(bigint, bytea, timestamptz) AS
    UPDATE log_head SET position = $1, hash = $2, recorded_at = $3
"""

LOCK: Final = "EXECUTE daybook_lock"


def versions(streams: Sequence[str]) -> str:
    """The database's time, and the last version of each stream or -1, in their order. The clock is read by a statement
    of its own: in the locking one it would be read before the lock is granted."""
    return f"EXECUTE daybook_versions({_texts(streams)})"


def memories(organizations: Iterable[str], actors: Iterable[str], keys: Iterable[str]) -> str:
    return f"EXECUTE daybook_memories({_texts(organizations)}, {_texts(actors)}, {_texts(keys)})"


def tracked(applications: Iterable[str]) -> str:
    return f"EXECUTE daybook_tracked({_texts(applications)})"


def remember(
    recorded_at: datetime,
    organizations: Iterable[str],
    actors: Iterable[str],
    keys: Iterable[str],
    body_hashes: Iterable[bytes],
    results: Iterable[bytes],
    first: Iterable[int | None],
    last: Iterable[int | None],
) -> str:
    columns = (
        *map(_texts, (organizations, actors, keys)),
        *map(_byte_strings, (body_hashes, results)),
        *map(_numbers, (first, last)),
    )
    return f"EXECUTE daybook_remember('{recorded_at.isoformat()}', {', '.join(columns)})"


def track(applications: Iterable[str], positions: Iterable[int]) -> str:
    return f"EXECUTE daybook_track({_texts(applications)}, {_numbers(positions)})"


def advance(position: int, hash: bytes, recorded_at: datetime) -> str:
    """Moves the head, and tells those who listen."""
    moved = rf"EXECUTE daybook_advance({position:d}, '\x{hash.hex()}', '{recorded_at.isoformat()}')"
    return f"{moved}; NOTIFY {CHANNEL}, '{position:d}'"


def together(statements: Iterable[str]) -> str:
    return "; ".join(statements)


def _texts(values: Iterable[str]) -> str:
    """Raises `UnicodeEncodeError` for a lone surrogate."""
    return _byte_strings(value.encode() for value in values)


def _byte_strings(values: Iterable[bytes]) -> str:
    # Within an array a backslash is said by two.
    return _array(rf'"\\x{value.hex()}"' for value in values)


def _numbers(values: Iterable[int | None]) -> str:
    return _array("NULL" if value is None else f"{value:d}" for value in values)


def _array(elements: Iterable[str]) -> str:
    return "'{" + ",".join(elements) + "}'"
