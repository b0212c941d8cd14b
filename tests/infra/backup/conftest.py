"""A log with all kinds of things in it, databases to restore into, and all that a database holds, for comparing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from domain.ports import Memory
from infra.backup.create import Created, create
from infra.backup.restore import Restored, restore
from infra.backup.verify import Report, verify
from infra.event_log.checkpoints import Checkpointer, SigningKey
from infra.event_log.log import PostgresEventLog
from infra.keyring import MasterKey, MasterKeyFile, PostgresKeyring
from tests.conftest import Database, fresh_database
from tests.infra.event_log.conftest import Confided, keyring, log, new, notes, save

__all__ = ["keyring", "log"]

KEY = SigningKey(bytes(range(32)))
PUBLIC = {KEY.id: KEY.public}
ANNA, BERT = UUID(int=1), UUID(int=2)

_TABLES = {
    "events": "position",
    "log_head": "position",
    "commands": "organization, actor, key",
    "data_keys": "organization, person",
    "tracking": "application",
}


def everything_in(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    with psycopg.connect(database.superuser) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY {order}".encode()).fetchall()
            for table, order in _TABLES.items()
        }


async def fill(log: PostgresEventLog, first: int, last: int, streams: int = 4) -> None:
    for number in range(first, last):
        stream = f"page/{number % streams}"
        asked = notes(stream, number // streams, number)
        await log.append(save(asked.expected, *asked.events, memory=Memory(f"key-{number}", b"body", b"%d" % number)))


async def confide(log: PostgresEventLog, stream: str, person: UUID, words: str) -> None:
    await log.append(save({stream: 0}, new(stream, Confided(patient=person, reason=words))))


async def sign(database: Database, folder: Path, log: PostgresEventLog, key: SigningKey = KEY) -> None:
    """One checkpoint of what is there."""
    await Checkpointer(database.app, folder, key, log.wait).close()


def back_up(database: Database, folder: Path, **options: Any) -> Created:
    return create(database.app, folder, KEY, **options)


def check(folder: Path, **options: Any) -> Report:
    return verify(folder, **{"keys": PUBLIC, **options})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed loses nothing without fsync; only a machine does. A busy disk takes its time for it."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def master(tmp_path: Path) -> MasterKeyFile:
    return MasterKeyFile.at(tmp_path / "master.key")


@pytest.fixture
def another_database(postgres: str, template: str) -> Iterator[Callable[[], Database]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(fresh_database(postgres, template))


def bring_back(folder: Path, database: Database, master: MasterKey, **options: Any) -> Restored:
    # In a thread, since a test has an event loop running.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(restore, folder, database.superuser, master, **{"keys": PUBLIC, **options}).result()


def words_of(events: list[Any]) -> list[Any]:
    return [event.event.reason for event in events if isinstance(event.event, Confided)]


async def reopened(database: Database, master: MasterKey, work: Any) -> Any:
    """Do some work with the log of a database, as a new process would find it."""
    keyring = PostgresKeyring(database.app, master)
    try:
        async with PostgresEventLog(database.app, keyring) as log:
            return await work(log)
    finally:
        await keyring.close()
