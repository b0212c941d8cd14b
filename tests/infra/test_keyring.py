"""Data keys: one for each person, durable before use, unreadable without the master key."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from cryptography.exceptions import InvalidTag

from infra.key_files import read_or_make
from infra.keyring import MasterKeyFile, PostgresKeyring
from tests.conftest import Database

MASTER = MasterKeyFile(bytes(range(32)))


@pytest.fixture
async def keyring(database: Database) -> AsyncIterator[PostgresKeyring]:
    keyring = PostgresKeyring(database.app, MASTER)
    yield keyring
    await keyring.close()


@pytest.fixture
async def elsewhere(database: Database) -> AsyncIterator[PostgresKeyring]:
    """The keyring of another process."""
    keyring = PostgresKeyring(database.app, MASTER)
    yield keyring
    await keyring.close()


async def test_a_key_is_made_once_and_kept(keyring: PostgresKeyring, elsewhere: PostgresKeyring) -> None:
    assert await keyring.keys("clinic", ["anna", "ben"]) == {"anna": None, "ben": None}
    made = await keyring.keys("clinic", ["anna", "ben"], create=True)
    assert {len(key or b"") for key in made.values()} == {32}
    assert len(set(made.values())) == 2
    assert await keyring.keys("clinic", ["ben", "anna"], create=True) == made
    assert await elsewhere.keys("clinic", ["anna", "ben", "carl"]) == made | {"carl": None}


async def test_two_processes_that_make_a_key_at_once_agree(
    keyring: PostgresKeyring, elsewhere: PostgresKeyring
) -> None:
    persons = [f"person-{number}" for number in range(50)]
    one, other, again = await asyncio.gather(
        keyring.keys("clinic", persons, create=True),
        elsewhere.keys("clinic", persons[::-1], create=True),
        keyring.keys("clinic", persons, create=True),
    )
    assert one == other == again


async def test_organizations_have_keys_of_their_own(keyring: PostgresKeyring) -> None:
    one = await keyring.keys("clinic", ["anna"], create=True)
    assert await keyring.keys("other", ["anna"]) == {"anna": None}
    assert await keyring.keys("other", ["anna"], create=True) != one


async def test_a_destroyed_key_is_gone(keyring: PostgresKeyring, elsewhere: PostgresKeyring) -> None:
    before = await keyring.keys("clinic", ["anna", "ben"], create=True)
    await keyring.forget("clinic", "anna")
    for one in (keyring, elsewhere):
        assert await one.keys("clinic", ["anna"]) == {"anna": None}
        assert await one.keys("clinic", ["anna", "ben"], create=True) == {"anna": None, "ben": before["ben"]}


async def test_who_never_had_a_key_can_be_forgotten_too(keyring: PostgresKeyring, elsewhere: PostgresKeyring) -> None:
    await keyring.forget("clinic", "anna")
    await keyring.forget("clinic", "anna")
    assert await elsewhere.keys("clinic", ["anna"], create=True) == {"anna": None}
    assert (await elsewhere.keys("other", ["anna"], create=True))["anna"] is not None


async def test_a_key_that_was_let_go_of_does_not_come_back_by_a_question_under_way(
    keyring: PostgresKeyring, elsewhere: PostgresKeyring
) -> None:
    made = await elsewhere.keys("clinic", ["anna"], create=True)
    asked = asyncio.create_task(keyring.keys("clinic", ["anna"]))
    await asyncio.sleep(0)
    keyring.let_go("clinic", "anna")
    assert await asked == made
    assert await keyring.keys("clinic", ["anna"], create=True) == {"anna": None}


async def test_the_database_alone_opens_nothing(keyring: PostgresKeyring, database: Database) -> None:
    made = await keyring.keys("clinic", ["anna", "ben"], create=True)
    with psycopg.connect(database.superuser) as connection:
        rows = connection.execute("SELECT wrapped FROM data_keys").fetchall()
        assert all(key not in wrapped for (wrapped,) in rows for key in made.values() if key)
        # A wrapped key that is laid under another person's name does not open either.
        connection.execute(
            "UPDATE data_keys SET wrapped = (SELECT wrapped FROM data_keys WHERE person = 'ben') WHERE person = 'anna'"
        )
    with_other_master = PostgresKeyring(database.app, MasterKeyFile(os.urandom(32)))
    for other, person in ((PostgresKeyring(database.app, MASTER), "anna"), (with_other_master, "ben")):
        with pytest.raises(InvalidTag):
            await other.keys("clinic", [person])
        await other.close()


async def test_memory_is_bounded(database: Database) -> None:
    keyring = PostgresKeyring(database.app, MASTER, remembered=3)
    persons = [f"person-{number}" for number in range(10)]
    made = await keyring.keys("clinic", persons, create=True)
    assert len(keyring._known) == 3
    assert await keyring.keys("clinic", persons) == made
    await keyring.close()


def test_the_master_key_lies_in_a_file_of_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    secret = read_or_make(path)
    assert (len(secret), path.stat().st_mode & 0o777) == (32, 0o600)
    assert read_or_make(path) == secret
    assert [entry.name for entry in tmp_path.iterdir()] == ["master.key"]
    path.chmod(0o640)
    with pytest.raises(PermissionError):
        MasterKeyFile.at(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        MasterKeyFile.at(path)
