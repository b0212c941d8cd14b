"""Opens a desk on the log of a data folder. In: running embedded servers. Out: a desk, closed again in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from commands.loop import Desk
from infra.embedded.data_folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.event_log.checkpoints import Checkpointer, CheckpointsBusy, SigningKey
from infra.event_log.log import PostgresEventLog
from infra.event_log.schema import app_dsn, migrate
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring

_MASTER_KEY = "master.key"
MEMORY_KEY = "commands"


@asynccontextmanager
async def keyring_on(folder: DataFolder, postgres: Postgres) -> AsyncIterator[PostgresKeyring]:
    keyring = PostgresKeyring(app_dsn(postgres.dsn()), MasterKeyFile.at(folder.keys / _MASTER_KEY))
    try:
        yield keyring
    finally:
        await keyring.close()


@asynccontextmanager
async def log_on(folder: DataFolder, postgres: Postgres) -> AsyncIterator[PostgresEventLog]:
    """The log, its tables brought to the newest shape first. Several processes may do so at once."""
    await asyncio.to_thread(migrate, postgres.dsn())
    async with keyring_on(folder, postgres) as keyring, PostgresEventLog(app_dsn(postgres.dsn()), keyring) as log:
        yield log


def checkpointer_on(folder: DataFolder, postgres: Postgres, log: PostgresEventLog) -> Checkpointer:
    """Signs the log into the data folder. Raises `CheckpointsBusy` where another process does."""
    key = SigningKey.at(folder.keys / "checkpoints.ed25519")
    return Checkpointer(app_dsn(postgres.dsn()), folder.checkpoints, key, log.wait)


@asynccontextmanager
async def desk_on(folder: DataFolder, postgres: Postgres) -> AsyncIterator[Desk]:
    """A desk of this process's own, beside whatever other process writes. At the end the log is signed, unless a server
    runs that does so anyway."""
    async with log_on(folder, postgres) as log:
        yield Desk(log, log.clock, TimeOrderedIds(), PublicHolidays(), memory_key=folder.secret(MEMORY_KEY))
        with contextlib.suppress(CheckpointsBusy):
            await checkpointer_on(folder, postgres, log).close()
