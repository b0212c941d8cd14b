"""How many connections a process holds, and that the server is told whose they are."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from domain.ports import LogUnavailable
from infra.event_log.checkpoints import Checkpointer, SigningKey
from infra.event_log.connections import Connections, service_dsn
from infra.event_log.log import PostgresEventLog
from infra.event_log.verify import verify
from infra.keyring import MasterKeyFile, PostgresKeyring
from tests.conftest import Database
from tests.infra.event_log.conftest import notes, until


def held(database: Database) -> Counter[str]:
    with psycopg.connect(database.superuser, application_name="test") as connection:
        rows = connection.execute(
            "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND"
            " application_name <> 'test'"
        ).fetchall()
    return Counter(name for (name,) in rows)


async def test_a_process_holds_no_more_than_it_was_told_to(database: Database, tmp_path: Path) -> None:
    dsn = service_dsn(database.app, "write")
    keyring = PostgresKeyring(dsn, MasterKeyFile(bytes(32)), size=1)
    async with PostgresEventLog(dsn, keyring, readers=3) as log:
        assert held(database) == {"daybook write watch": 1}
        await log.append(notes("page/a", 0, 1))
        for _ in range(5):
            await asyncio.gather(
                *(log.read(0, 10) for _ in range(20)),
                *(log.head() for _ in range(20)),
                *(log.load("clinic", {"page/a": 0}) for _ in range(20)),
                *(keyring.keys("clinic", [f"{number}"]) for number in range(20)),
            )
        checkpointer = Checkpointer(dsn, tmp_path, SigningKey(bytes(32)), log.wait, events=1, seconds=0.1)
        checkpointer.start()
        await log.append(notes("page/a", 1, 2))
        await until(lambda: checkpointer.size == 2)
        assert held(database) == {
            "daybook write watch": 1,
            "daybook write writer": 1,
            "daybook write reader": 3,
            "daybook write keyring": 1,
            "daybook write checkpoints": 1,
        }
        await checkpointer.close()
    await keyring.close()
    await until(lambda: held(database) == {})


async def test_a_question_that_nobody_waits_for_any_more_ends_in_the_database_too(database: Database) -> None:
    connections = Connections(service_dsn(database.app, "read"), "reader", size=1, patience=0.5)

    def asked() -> int:
        with psycopg.connect(database.superuser) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'"
                " AND query LIKE 'SELECT pg_sleep%'"
            ).fetchone()
        return int(row[0]) if row else 0

    question = asyncio.create_task(connections.fetch("SELECT pg_sleep(60)"))
    await until(lambda: asked() == 1)
    with pytest.raises(LogUnavailable):
        await question
    await until(lambda: asked() == 0)
    assert await connections.fetch("SELECT 1") == [(1,)]
    await connections.close()


async def test_a_server_of_other_habits_is_understood(database: Database, tmp_path: Path) -> None:
    habits = {
        "DateStyle": "SQL, DMY",
        "TimeZone": "Asia/Kolkata",
        "IntervalStyle": "sql_standard",
        "bytea_output": "escape",
        "standard_conforming_strings": "off",
        "default_transaction_isolation": "serializable",
    }
    with psycopg.connect(database.superuser, autocommit=True) as connection:
        for name, value in habits.items():
            connection.execute(f"ALTER DATABASE {connection.info.dbname} SET {name} = '{value}'".encode())
    keyring = PostgresKeyring(database.app, MasterKeyFile(bytes(32)))
    async with PostgresEventLog(database.app, keyring) as one, PostgresEventLog(database.app, keyring) as other:
        for number in range(20):
            asked = [notes(f"page/{name}/{number}", 0, number) for name in ("one", "other")]
            await asyncio.gather(*(log.append(save) for log, save in zip((one, other), asked, strict=True)))
        events = await one.read(0, 100)
        assert len(events) == 40
        assert {event.recorded_at.utcoffset() for event in events} == {timedelta(0)}
        assert {event.occurred_at.utcoffset() for event in events} == {timedelta(0)}
        assert one.stats.retries + other.stats.retries == 0
        await Checkpointer(database.app, tmp_path, SigningKey(bytes(32)), one.wait).close()
    assert verify(database.app, tmp_path).checkpoints == 1
    await keyring.close()
