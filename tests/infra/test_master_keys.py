"""A new master key takes the place of the old one while everybody works on, and breaking off loses nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.exceptions import InvalidTag

from infra import master_keys
from infra.key_files import read_or_make
from infra.keyring import MasterKeyFile, PostgresKeyring
from infra.master_keys import (
    CURRENT,
    NEXT,
    RETIRED,
    MasterKeyFolder,
    RetiredKeyThere,
    RotationUnfinished,
    prepare,
    retire,
    rotate,
)
from tests.conftest import Database

PERSONS = [f"person-{number}" for number in range(120)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    read_or_make(tmp_path / CURRENT)
    return tmp_path


@pytest.fixture
async def keyring(database: Database, folder: Path) -> AsyncIterator[PostgresKeyring]:
    keyring = PostgresKeyring(database.app, MasterKeyFolder(folder), remembered=0)
    yield keyring
    await keyring.close()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master_keys, "_BITE", 50)


async def opened(database: Database, master: Any) -> Mapping[str, bytes | None]:
    """All data keys, as a new process reads them."""
    keyring = PostgresKeyring(database.app, master)
    try:
        return await keyring.keys("clinic", PERSONS)
    finally:
        await keyring.close()


def files(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


async def test_data_keys_stay_what_they_are_under_another_master_key(
    database: Database, folder: Path, keyring: PostgresKeyring
) -> None:
    made = await keyring.keys("clinic", PERSONS, create=True)
    former = MasterKeyFile.at(folder / CURRENT)
    seen: list[tuple[int, int]] = []
    assert await rotate(database.app, folder, lambda done, total: seen.append((done, total))) == len(PERSONS)
    assert seen[-1] == (len(PERSONS), len(PERSONS))
    assert files(folder) == {CURRENT, RETIRED}
    # A process that runs goes on, and so does one that is started.
    assert await keyring.keys("clinic", PERSONS) == made
    assert await opened(database, MasterKeyFile.at(folder / CURRENT)) == made
    with pytest.raises(InvalidTag):
        await opened(database, former)

    with pytest.raises(RetiredKeyThere, match="retire master"):
        await rotate(database.app, folder)
    assert await retire(database.app, folder)
    assert files(folder) == {CURRENT}
    assert not await retire(database.app, folder)
    assert await rotate(database.app, folder) == len(PERSONS)
    assert await keyring.keys("clinic", PERSONS) == made


async def test_it_goes_on_while_people_come_and_are_forgotten(
    database: Database, folder: Path, keyring: PostgresKeyring
) -> None:
    await keyring.keys("clinic", PERSONS, create=True)
    elsewhere = PostgresKeyring(database.app, MasterKeyFolder(folder), remembered=0)
    made: dict[str, bytes | None] = {}

    async def work() -> None:
        for number in range(200):
            made.update(await elsewhere.keys("clinic", [f"new-{number}"], create=True))
            if number < 40:
                await elsewhere.forget("clinic", PERSONS[number])

    working = asyncio.create_task(work())
    await rotate(database.app, folder)
    await working
    await elsewhere.close()
    await retire(database.app, folder)
    found = await opened(database, MasterKeyFile.at(folder / CURRENT))
    assert [found[person] is None for person in PERSONS] == [True] * 40 + [False] * 80
    fresh = PostgresKeyring(database.app, MasterKeyFile.at(folder / CURRENT))
    assert await fresh.keys("clinic", list(made)) == made
    await fresh.close()


@pytest.mark.parametrize("step", ["os.link", "os.replace", "third bite", "the end"])
async def test_what_breaks_off_is_gone_on_with(
    database: Database, folder: Path, keyring: PostgresKeyring, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    made = await keyring.keys("clinic", PERSONS, create=True)
    rewrap, bites = master_keys._rewrap, 0
    prepare(folder)

    class PowerCut(Exception):
        pass

    def cut(*_: Any) -> None:
        raise PowerCut

    def count(done: int, total: int) -> None:
        nonlocal bites
        bites += 1
        if step == "third bite" and bites == 3:
            raise PowerCut

    async def last(*arguments: Any) -> int:
        if not (folder / NEXT).exists():
            raise PowerCut
        return await rewrap(*arguments)

    with monkeypatch.context() as broken:
        if step.startswith("os."):
            broken.setattr(os, step.removeprefix("os."), cut)
        elif step == "the end":
            broken.setattr(master_keys, "_rewrap", last)
        with pytest.raises(PowerCut):
            await rotate(database.app, folder, count)
    assert await keyring.keys("clinic", PERSONS) == made
    assert await opened(database, MasterKeyFolder(folder)) == made
    late = await keyring.keys("clinic", ["late"], create=True)

    if step == "the end":
        with pytest.raises(RetiredKeyThere):
            await rotate(database.app, folder)
    else:
        with pytest.raises(RotationUnfinished):
            await retire(database.app, folder)
        await rotate(database.app, folder)
    assert files(folder) == {CURRENT, RETIRED}
    await retire(database.app, folder)
    assert await opened(database, MasterKeyFile.at(folder / CURRENT)) == made
    assert await keyring.keys("clinic", ["late"]) == late


async def test_a_last_key_under_the_former_master_is_wrapped_anew_before_that_is_taken_away(
    database: Database, folder: Path, keyring: PostgresKeyring
) -> None:
    former = PostgresKeyring(database.app, MasterKeyFile.at(folder / CURRENT))
    await keyring.keys("clinic", PERSONS, create=True)
    await rotate(database.app, folder)
    # It had looked at the folder just before.
    late = await former.keys("clinic", ["late"], create=True)
    await former.close()
    assert await keyring.keys("clinic", ["late"]) == late
    await retire(database.app, folder)
    assert await keyring.keys("clinic", ["late"]) == late


async def test_a_data_key_that_nothing_opens_stops_it_with_the_former_key_in_place(
    database: Database, folder: Path, keyring: PostgresKeyring
) -> None:
    made = await keyring.keys("clinic", PERSONS, create=True)
    with psycopg.connect(database.superuser, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO data_keys (organization, person, wrapped) VALUES ('clinic', 'zoe', %s)", (bytes(60),)
        )
    with pytest.raises(InvalidTag):
        await rotate(database.app, folder)
    assert files(folder) == {CURRENT, NEXT}
    assert await keyring.keys("clinic", PERSONS) == made


async def test_a_successor_that_is_handed_out_first_is_used_at_once(
    database: Database, folder: Path, keyring: PostgresKeyring
) -> None:
    prepare(folder)
    prepare(folder)
    made = await keyring.keys("clinic", PERSONS, create=True)
    assert await opened(database, MasterKeyFile.at(folder / NEXT)) == made
    assert await rotate(database.app, folder) == 0


def test_a_folder_without_a_master_key_has_no_successor(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        prepare(tmp_path)
    with pytest.raises(FileNotFoundError):
        MasterKeyFolder(tmp_path)
    assert files(tmp_path) == set()
