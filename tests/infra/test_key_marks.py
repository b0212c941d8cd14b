"""A log that has begun is opened with the keys it began with, and with no others; a new log is given new ones."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from infra.embedded.servers import Servers
from infra.event_log.schema import migrate
from infra.key_marks import MARKED, settle, succeed
from infra.keyring import PostgresKeyring
from infra.keys import FILES, LASTING, KeyFolder
from infra.local.stack import Stack
from infra.settings import Settings
from infra.troubles import CannotStart
from tests.conftest import Database
from tests.infra.test_cli import run


def keys_in(folder: Path, *, make: bool = True) -> KeyFolder:
    return KeyFolder(folder / "keys", make=make)


async def begin(database: Database, folder: Path) -> KeyFolder:
    """A log with one person in it, and its keys."""
    keys = keys_in(folder)
    await settle(database.app, keys)
    keyring = PostgresKeyring(database.app, keys.master())
    await keyring.keys("clinic", ["anna", "ben"], create=True)
    await keyring.close()
    return keys


@contextmanager
def another(path: Path) -> Iterator[None]:
    """Another key in the place of one, for a while."""
    former = path.read_bytes()
    path.write_bytes(os.urandom(32))
    try:
        yield
    finally:
        path.write_bytes(former)


async def test_a_new_log_gets_keys_and_keeps_them(database: Database, tmp_path: Path) -> None:
    keys = await begin(database, tmp_path)
    made = {name: (keys.path / name).read_bytes() for name in FILES}
    await settle(database.app, keys)
    await settle(database.app, keys_in(tmp_path, make=False))
    assert {name: (keys.path / name).read_bytes() for name in FILES} == made


@pytest.mark.parametrize("name", LASTING)
async def test_what_is_lost_is_not_made_anew(database: Database, tmp_path: Path, name: str) -> None:
    keys = await begin(database, tmp_path)
    (keys.path / name).rename(tmp_path / "kept")
    with pytest.raises(CannotStart, match="Bring it back from the copy of the keys folder") as refused:
        await settle(database.app, keys)
    assert str(keys.path / name) in str(refused.value)
    assert not (keys.path / name).exists()
    (tmp_path / "kept").rename(keys.path / name)
    await settle(database.app, keys)


async def test_what_a_log_can_do_without_is_made_anew_and_told(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = await begin(database, tmp_path)
    for name in {*FILES} - {*LASTING}:
        (keys.path / name).unlink()
    with caplog.at_level(logging.WARNING, "daybook.keys"):
        await settle(database.app, keys)
    assert caplog.text.count("made anew") == 2
    keys.tokens()
    keys.cursors()


@pytest.mark.parametrize("make", [True, False], ids=["embedded", "full"])
@pytest.mark.parametrize("name", ["master.key", *MARKED])
async def test_another_key_is_refused_in_both_stacks(database: Database, tmp_path: Path, name: str, make: bool) -> None:
    keys = await begin(database, tmp_path)
    with another(keys.path / name), pytest.raises(CannotStart, match="is another") as refused:
        await settle(database.app, keys_in(tmp_path, make=make))
    assert str(keys.path / name) in str(refused.value)
    await settle(database.app, keys)


async def test_one_damaged_data_key_keeps_nobody_from_the_book(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = await begin(database, tmp_path)
    with psycopg.connect(database.superuser) as connection:
        connection.execute("UPDATE data_keys SET wrapped = 'x' || wrapped WHERE person = 'ben'")
    with caplog.at_level(logging.ERROR, "daybook.keys"):
        await settle(database.app, keys)
    assert "opens 1 of 2 data keys" in caplog.text


async def test_keys_of_a_log_that_never_began_may_be_others(database: Database, tmp_path: Path) -> None:
    keys = keys_in(tmp_path)
    await settle(database.app, keys)
    for name in FILES:
        (keys.path / name).unlink()
    keys = await begin(database, tmp_path)
    await settle(database.app, keys)


async def test_a_log_from_before_the_marks_takes_the_keys_that_are_there(database: Database, tmp_path: Path) -> None:
    keys = await begin(database, tmp_path)
    with psycopg.connect(database.superuser) as connection:
        connection.execute("DELETE FROM key_marks")
    await settle(make_conninfo(database.superuser, user="daybook_backup"), keys)
    await settle(database.app, keys)
    with another(keys.path / "blind"), pytest.raises(CannotStart):
        await settle(database.app, keys)


async def test_the_key_of_remembered_commands_has_a_successor(database: Database, tmp_path: Path) -> None:
    keys = await begin(database, tmp_path)
    (keys.path / "commands").unlink()
    with pytest.raises(CannotStart, match="daybook keys rotate commands"):
        await settle(database.app, keys)
    await succeed(database.app, keys.path, "commands")
    await settle(database.app, keys)
    assert (keys.path / "commands").stat().st_mode & 0o777 == 0o600


def test_a_real_start_is_refused_with_words_that_help(tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = run("account", "create", "--role", "admin", "--email", "ann@example.org", "--invite", DATA=str(data))
    assert made.returncode == 0, made.stderr
    file = data / "keys" / "blind"
    file.rename(tmp_path / "kept")
    refused = run("serve", "--no-demo", "--port", "0", DATA=str(data))
    assert (refused.returncode, str(file) in refused.stderr, file.exists()) == (4, True, False), refused.stderr
    assert "Traceback" not in refused.stderr
    (tmp_path / "kept").rename(file)
    for name in ("master.key", "checkpoints.ed25519"):
        with another(data / "keys" / name):
            refused = run("serve", "--no-demo", "--port", "0", DATA=str(data))
        assert (refused.returncode, name in refused.stderr) == (4, True), refused.stderr
    (data / "keys" / "checkpoints.ed25519").unlink()
    (data / "keys" / "commands").unlink()
    new = json.loads(run("keys", "rotate", "checkpoints", "--json", DATA=str(data)).stdout)
    assert (data / "checkpoints" / f"{new['key']}.pub").read_text().strip() == new["public"]
    assert run("keys", "rotate", "commands", DATA=str(data)).returncode == 0
    listed = run("account", "list", "--json", DATA=str(data))
    assert listed.returncode == 0, listed.stderr


def test_the_local_stack_makes_no_key_for_a_log_that_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stack, "environment", lambda self: {})
    with Servers(Settings(data=tmp_path / "data"), redis=False) as servers:
        stack = Stack(servers.folder)
        stack.write_settings()
        keys = KeyFolder(servers.folder.keys, make=False)
        assert not keys.missing(FILES)
        migrate(servers.postgres.dsn())
        with psycopg.connect(servers.postgres.dsn()) as connection:
            connection.execute("INSERT INTO data_keys (organization, person, wrapped) VALUES ('clinic', 'anna', '')")
        (keys.path / "blind").unlink()
        with pytest.raises(CannotStart, match="blind is missing"):
            stack.write_settings()
        assert keys.missing(FILES) == ["blind"]
