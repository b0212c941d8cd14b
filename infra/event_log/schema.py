"""The log's tables: numbered migrations go in, a database at the newest shape comes out. Forward only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources

import psycopg
from psycopg.conninfo import make_conninfo

APP_ROLE = "daybook_app"

# Any number that no other user of the database's advisory locks takes.
_MIGRATING = 0x6461_7962_6F6F_6B


def app_dsn(dsn: str) -> str:
    """The same database as `dsn`, entered as the application's role, which may append and not alter."""
    return make_conninfo(dsn, user=APP_ROLE)


def migrations() -> Iterator[tuple[int, str, str]]:
    """Number, name and SQL of every migration, in order."""
    folder = resources.files("infra.event_log").joinpath("migrations")
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            yield int(number), name, file.read_text(encoding="utf-8")


def migrate(dsn: str) -> Sequence[int]:
    """Apply what is missing and return its numbers. Needs the owner's or a superuser's `dsn`.

    Several processes may call this at once: one migrates and the others wait. Raises `psycopg.Error`.
    """
    applied: list[int] = []
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATING,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations ("
            "number int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        known = {row[0] for row in connection.execute("SELECT number FROM schema_migrations")}
        for number, name, sql in migrations():
            if number not in known:
                connection.execute(sql.encode())
                connection.execute("INSERT INTO schema_migrations (number, name) VALUES (%s, %s)", (number, name))
                applied.append(number)
    return applied
