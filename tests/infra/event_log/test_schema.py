"""The database itself keeps the log append-only, whoever asks; and its tables come about in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from infra.event_log import schema
from infra.event_log.log import PostgresEventLog
from infra.event_log.schema import ROLES, SchemaBusy, SchemaEdited, SchemaNewer, migrate, migrations
from tests.conftest import Database
from tests.infra.event_log.conftest import notes

ROW = (
    "INSERT INTO events VALUES (1, 'clinic', 'clinic/appointment/1', 1, gen_random_uuid(), 'Noted.v1', '{}', 'desk',"
    " null, null, gen_random_uuid(), gen_random_uuid(), null, now(), now(), '\\x00')"
)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET name = 'x'",
        "UPDATE events SET name = 'x' WHERE false",
        "DELETE FROM events",
        "TRUNCATE events",
        "SET session_replication_role = replica; DELETE FROM events",
    ],
)
def test_the_superuser_may_not_change_what_is_recorded(database: Database, statement: str) -> None:
    with psycopg.connect(database.superuser, autocommit=True) as connection:
        connection.execute(ROW)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            connection.execute(statement.encode())
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (1,)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET name = 'x'",
        "DELETE FROM events",
        "TRUNCATE events",
        "ALTER TABLE events DISABLE TRIGGER append_only",
        "DROP TRIGGER append_only ON events",
        "INSERT INTO log_head (only_one, position, hash, recorded_at) VALUES (false, 0, '', now())",
        "DELETE FROM log_head",
        "UPDATE commands SET result = ''",
        "DELETE FROM commands",
        "UPDATE data_keys SET person = 'x'",
        "DELETE FROM data_keys",
        "CREATE TABLE mine ()",
        "INSERT INTO schema_migrations VALUES (99, 'x')",
        "INSERT INTO archived_events SELECT * FROM events",
        "UPDATE archived_streams SET version = 0",
        "UPDATE archive_floor SET position = 0",
        "SELECT next_archive_part()",
        "SELECT FROM archive_floor FOR UPDATE",
    ],
)
def test_the_application_has_no_right_beyond_appending(database: Database, statement: str) -> None:
    with psycopg.connect(database.app, autocommit=True) as connection:
        connection.execute(ROW)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"permission denied|must be owner"):
            connection.execute(statement.encode())


@pytest.mark.parametrize("who", ["app", "superuser"])
def test_a_destroyed_key_is_never_brought_back(database: Database, who: str) -> None:
    with psycopg.connect(getattr(database, who), autocommit=True) as connection:
        connection.execute("INSERT INTO data_keys (organization, person, wrapped) VALUES ('clinic', 'anna', 'x')")
        connection.execute("UPDATE data_keys SET wrapped = 'y'")
        connection.execute("UPDATE data_keys SET wrapped = ''")
        connection.execute("UPDATE data_keys SET wrapped = ''")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="never brought back"):
            connection.execute("UPDATE data_keys SET wrapped = 'y'")


def test_migrating_again_changes_nothing(database: Database) -> None:
    assert migrate(database.superuser) == []


# What each role may do with each table or view: s(elect), i(nsert), u(pdate), d(elete), t(runcate); u- some columns.
RIGHTS = {
    "schema_migrations": {"app": "s", "reader": "s", "archivist": "s", "backup": "s"},
    "events": {"app": "si", "reader": "s", "archivist": "sd", "backup": "s"},
    "log_head": {"app": "su", "reader": "s", "archivist": "s", "backup": "s"},
    "commands": {"app": "si", "reader": "", "archivist": "", "backup": "s"},
    "data_keys": {"app": "siu-", "reader": "", "archivist": "", "backup": "s"},
    "key_marks": {"app": "si", "reader": "s", "archivist": "s", "backup": "s"},
    "tracking": {"app": "siu", "reader": "", "archivist": "", "backup": "s"},
    "snapshots": {"app": "siud", "reader": "", "archivist": "", "backup": "s"},
    "archived_events": {"app": "s", "reader": "s", "archivist": "si", "backup": "s"},
    "archived_streams": {"app": "s", "reader": "s", "archivist": "s", "backup": "s"},
    "archive_floor": {"app": "s", "reader": "s", "archivist": "su-", "backup": "s"},
    "archive_parts": {"app": "s", "reader": "s", "archivist": "su-", "backup": "s"},
    "all_events": {"app": "s", "reader": "s", "archivist": "s", "backup": "s"},
}
_RIGHTS = (
    "SELECT c.relname, concat("
    " CASE WHEN has_table_privilege(%(role)s, c.oid, 'SELECT') THEN 's' END,"
    " CASE WHEN has_table_privilege(%(role)s, c.oid, 'INSERT') THEN 'i' END,"
    " CASE WHEN has_table_privilege(%(role)s, c.oid, 'UPDATE') THEN 'u'"
    " WHEN has_any_column_privilege(%(role)s, c.oid, 'UPDATE') THEN 'u-' END,"
    " CASE WHEN has_table_privilege(%(role)s, c.oid, 'DELETE') THEN 'd' END,"
    " CASE WHEN has_table_privilege(%(role)s, c.oid, 'TRUNCATE') THEN 't' END,"
    " CASE WHEN has_table_privilege(%(role)s, c.oid, 'REFERENCES, TRIGGER') THEN '!' END,"
    " CASE WHEN pg_has_role(%(role)s, c.relowner, 'MEMBER') THEN '!' END)"
    " FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')"
)


@pytest.mark.parametrize("role", ["app", "reader", "archivist", "backup"])
def test_each_role_may_do_what_the_table_says_and_no_more(database: Database, role: str) -> None:
    with psycopg.connect(database.superuser) as connection:
        found = dict(connection.execute(_RIGHTS, {"role": f"daybook_{role}"}).fetchall())
        assert found == {table: rights[role] for table, rights in RIGHTS.items()}
        special = connection.execute(
            "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls OR"
            " has_schema_privilege(rolname, 'public', 'CREATE'),"
            " has_function_privilege(rolname, 'next_archive_part(text)', 'EXECUTE')"
            " FROM pg_roles WHERE rolname = %s",
            (f"daybook_{role}",),
        ).fetchone()
        assert special == (False, role == "archivist")
        updates = connection.execute(
            "SELECT table_name, column_name FROM information_schema.column_privileges"
            " WHERE grantee = %s AND privilege_type = 'UPDATE' AND table_name LIKE 'archive%%' ORDER BY 1, 2",
            (f"daybook_{role}",),
        ).fetchall()
        assert updates == (
            [
                ("archive_floor", "frontier"),
                ("archive_parts", "hash"),
                ("archive_parts", "recorded_at"),
                ("archive_parts", "root"),
            ]
            if role == "archivist"
            else []
        )


def test_a_new_part_gives_no_rights_to_anybody(database: Database) -> None:
    with psycopg.connect(database.superuser) as connection:
        connection.execute("SELECT next_archive_part()")
        for role in ROLES:
            found = dict(connection.execute(_RIGHTS, {"role": role}).fetchall())
            assert found["archived_events_8388608"] == ""


def test_functions_that_run_as_the_owner_look_nowhere_else(database: Database) -> None:
    with psycopg.connect(database.superuser) as connection:
        rows = connection.execute(
            "SELECT proname, proconfig FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace"
        ).fetchall()
    assert len(rows) == 5
    assert all(config == ["search_path=public, pg_temp"] for _, config in rows)


@pytest.fixture
def empty(postgres: str) -> Iterator[str]:
    """The DSN of a database without tables."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE daybook_empty")
    yield make_conninfo(postgres, dbname="daybook_empty")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP DATABASE daybook_empty WITH (FORCE)")


NUMBERS = [number for number, _, _ in migrations()]


def test_several_migrators_at_once_apply_each_migration_once(empty: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        applied = list(pool.map(migrate, [empty] * 6))
    assert sorted(number for numbers in applied for number in numbers) == NUMBERS


def test_a_program_older_than_the_schema_refuses_with_words(database: Database) -> None:
    with psycopg.connect(database.superuser) as connection:
        connection.execute("INSERT INTO schema_migrations (number, name) VALUES (9999, 'from the future')")
    with pytest.raises(SchemaNewer, match="at migration 9999, and this program knows none after"):
        migrate(database.superuser)


def test_an_edited_migration_is_noticed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = [(number, name, sql + ("-- and more" if number == 1 else "")) for number, name, sql in migrations()]
    monkeypatch.setattr(schema, "migrations", lambda: changed)
    with pytest.raises(SchemaEdited, match="Migration 1 "):
        migrate(database.superuser)
    monkeypatch.setattr(schema, "migrations", lambda: [(n, name, sql.replace("\n", "\r\n")) for n, name, sql in ALL])
    assert migrate(database.superuser) == []


ALL = list(migrations())


def test_a_schema_from_before_checksums_goes_on(empty: str) -> None:
    with psycopg.connect(empty) as connection:
        connection.execute(
            "CREATE TABLE schema_migrations ("
            "number int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        connection.execute(ALL[0][2].encode())
        connection.execute("INSERT INTO schema_migrations (number, name) VALUES (1, 'event_log')")
    assert migrate(empty) == NUMBERS[1:]
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT count(*) FROM schema_migrations WHERE checksum IS NULL").fetchone() == (0,)
    assert migrate(empty) == []


def test_a_migration_that_fails_leaves_nothing_half_done(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = (NUMBERS[-1] + 1, "broken", "CREATE TABLE half (); SELECT 1/0")
    monkeypatch.setattr(schema, "migrations", lambda: [*ALL, broken])
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(empty)
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT to_regclass('half')").fetchone() == (None,)
        assert connection.execute("SELECT max(number) FROM schema_migrations").fetchone() == (NUMBERS[-1],)


async def test_a_migration_that_waits_for_a_table_lets_bookings_pass(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    locking = (NUMBERS[-1] + 1, "locking", "ALTER TABLE events ADD COLUMN never int")
    monkeypatch.setattr(schema, "migrations", lambda: [*ALL, locking])
    with psycopg.connect(database.app) as reader:
        reader.execute("SELECT count(*) FROM events")
        migrating = asyncio.create_task(asyncio.to_thread(migrate, database.superuser, lock_timeout=0.2, patience=1.0))
        number = 0
        while not migrating.done():
            await log.append(notes("page/a", number, number))
            number += 1
        with pytest.raises(SchemaBusy, match="could not be locked"):
            await migrating
    assert number > 3


def test_a_database_that_is_up_to_date_is_not_locked(database: Database) -> None:
    with psycopg.connect(database.superuser) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (schema._MIGRATING,))
        assert migrate(database.superuser, patience=0.1) == []
