"""The log's tables: numbered migrations go in, a database at the newest shape comes out. Forward only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from importlib import resources
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo

from infra.troubles import Trouble

APP_ROLE: Final = "daybook_app"
READER_ROLE: Final = "daybook_reader"
ARCHIVIST_ROLE: Final = "daybook_archivist"
BACKUP_ROLE: Final = "daybook_backup"
ROLES: Final = (APP_ROLE, READER_ROLE, ARCHIVIST_ROLE, BACKUP_ROLE)

# Any number that no other user of the database's advisory locks takes.
_MIGRATING: Final = 0x6461_7962_6F6F_6B
_PAUSE: Final = 0.5

# A table from before checksums were kept has no such column, and this reads it all the same.
_APPLIED = "SELECT number, to_jsonb(m) ->> 'checksum' FROM schema_migrations AS m"


class SchemaTrouble(Trouble):
    """The database's tables are not what this program can work with."""

    exit_code = 2


class SchemaNewer(SchemaTrouble):
    def __init__(self, found: int, known: int) -> None:
        super().__init__(
            f"The database is at migration {found}, and this program knows none after {known}: a newer Daybook has "
            "been here. Start that one; migrations are never undone."
        )


class SchemaEdited(SchemaTrouble):
    def __init__(self, number: int, name: str) -> None:
        super().__init__(
            f"Migration {number} ({name}) was applied to this database with other words than this program has. One "
            "that was applied is never edited: bring its file back, and put the change into a new migration."
        )


class SchemaBusy(SchemaTrouble):
    def __init__(self) -> None:
        super().__init__(
            "The tables could not be locked in time: another process migrates, or a long transaction reads them "
            "(pg_stat_activity tells which). Nothing was changed that is not whole; start again later."
        )


def as_role(dsn: str, role: str) -> str:
    """The same database as `dsn`, entered as one of `ROLES`."""
    return make_conninfo(dsn, user=role)


def app_dsn(dsn: str) -> str:
    """The same database as `dsn`, entered as the application's role, which may append and not alter."""
    return as_role(dsn, APP_ROLE)


def migrations() -> Iterator[tuple[int, str, str]]:
    """Number, name and SQL of every migration, in order."""
    folder = resources.files("infra.event_log").joinpath("migrations")
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            yield int(number), name, file.read_text(encoding="utf-8")


def migrate(
    dsn: str, *, lock_timeout: float = 2.0, statement_timeout: float = 600.0, patience: float = 60.0
) -> Sequence[int]:
    """Apply what is missing and return its numbers. Needs the owner's or a superuser's `dsn`.

    Several processes may call this at once: one migrates and the others wait. A database that is up to date is not
    locked. Each migration is one transaction. Waiting for a table's lock makes everybody queue who comes after, so
    after `lock_timeout` seconds the migration lets go and tries again, until `patience` seconds are over; no statement
    takes longer than `statement_timeout`. Raises `SchemaNewer`, `SchemaEdited`, `SchemaBusy` and `psycopg.Error`.
    """
    wanted = list(migrations())
    applied: list[int] = []
    give_up = time.monotonic() + patience
    with psycopg.connect(dsn, autocommit=True, application_name="daybook migrate") as connection:
        for name, seconds in (("lock_timeout", lock_timeout), ("statement_timeout", statement_timeout)):
            connection.execute("SELECT set_config(%s, %s, false)", (name, f"{round(1000 * seconds)}ms"))
        while _missing(_known(connection), wanted):
            try:
                with connection.transaction():
                    number = _apply_next(connection, wanted)
            except psycopg.errors.LockNotAvailable:
                if time.monotonic() > give_up:
                    raise SchemaBusy from None
                time.sleep(_PAUSE)
                continue
            if number is not None:
                applied.append(number)
    return applied


def _known(connection: psycopg.Connection[Any]) -> dict[int, str | None]:
    """The checksums of what was applied, by number."""
    row = connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL").fetchone()
    return dict(connection.execute(_APPLIED).fetchall()) if row and row[0] else {}


def _missing(known: Mapping[int, str | None], wanted: Sequence[tuple[int, str, str]]) -> bool:
    """Whether something is left to do. Raises `SchemaNewer`, `SchemaEdited`."""
    newest = max((number for number, _, _ in wanted), default=0)
    if known and max(known) > newest:
        raise SchemaNewer(max(known), newest)
    for number, name, sql in wanted:
        if known.get(number) not in (None, checksum(sql)):
            raise SchemaEdited(number, name)
    return any(known.get(number) is None for number, _, _ in wanted)


def _apply_next(connection: psycopg.Connection[Any], wanted: Sequence[tuple[int, str, str]]) -> int | None:
    """Inside a transaction: what others did meanwhile is seen, and the first migration that is missing is applied."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATING,))
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations ("
        "number int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(), checksum text)"
    )
    connection.execute("ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS checksum text")
    known = _known(connection)
    _missing(known, wanted)
    for number, name, sql in wanted:
        if number not in known:
            connection.execute(sql.encode())
            connection.execute(
                "INSERT INTO schema_migrations (number, name, checksum) VALUES (%s, %s, %s)",
                (number, name, checksum(sql)),
            )
            return number
        if known[number] is None:
            # Applied before checksums were kept: what this program has is what stands from now on.
            connection.execute("UPDATE schema_migrations SET checksum = %s WHERE number = %s", (checksum(sql), number))
    return None


def checksum(sql: str) -> str:
    """SHA-256 over a migration's words, whatever the line ends of the file they came from."""
    return sha256("\n".join(sql.splitlines()).encode()).hexdigest()
