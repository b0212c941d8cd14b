"""A desk over a real log, for tests of commands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from commands.loop import Desk
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from tests.conftest import Database


@pytest.fixture
async def log(database: Database, tmp_path: Path) -> AsyncIterator[PostgresEventLog]:
    keyring = PostgresKeyring(database.app, MasterKeyFile.at(tmp_path / "master.key"))
    async with PostgresEventLog(database.app, keyring) as opened:
        yield opened
    await keyring.close()


@pytest.fixture
def desk(log: PostgresEventLog) -> Desk:
    return Desk(log, log.clock, TimeOrderedIds(), PublicHolidays())
