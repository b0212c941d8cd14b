"""The database itself keeps the log append-only, whoever asks."""

from __future__ import annotations

import psycopg
import pytest

from infra.event_log.schema import migrate
from tests.conftest import Database

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
        "UPDATE data_keys SET wrapped = ''",
        "CREATE TABLE mine ()",
        "INSERT INTO schema_migrations VALUES (99, 'x')",
    ],
)
def test_the_application_has_no_right_beyond_appending(database: Database, statement: str) -> None:
    with psycopg.connect(database.app, autocommit=True) as connection:
        connection.execute(ROW)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"permission denied|must be owner"):
            connection.execute(statement.encode())


def test_migrating_again_changes_nothing(database: Database) -> None:
    assert migrate(database.superuser) == []
