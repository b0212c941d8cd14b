"""Opens the log and a desk on it. In: an installation. Out: both, closed again in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from commands.loop import Desk
from domain.ports import Credentials
from infra.erasures import Erasures, mark_on
from infra.event_log.checkpoints import Checkpointer, CheckpointsBusy, SigningKey, check_signer
from infra.event_log.log import PostgresEventLog
from infra.event_log.schema import migrate
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.installation import Installation
from infra.key_marks import settle
from infra.keyring import PostgresKeyring
from infra.passwords import Argon2Passwords


@asynccontextmanager
async def keyring_on(place: Installation) -> AsyncIterator[PostgresKeyring]:
    keyring = PostgresKeyring(place.postgres, place.keys.master())
    try:
        yield keyring
    finally:
        await keyring.close()


@asynccontextmanager
async def log_on(place: Installation) -> AsyncIterator[PostgresEventLog]:
    """The log, its tables brought to the newest shape first where that is this process's to do, and its keys made or
    compared. Several may at once. Raises `LogUnavailable`, and `CannotStart` for keys that are not this log's."""
    if place.owner is not None:
        await asyncio.to_thread(migrate, place.owner)
    await settle(place.postgres, place.keys)
    async with (
        keyring_on(place) as keyring,
        PostgresEventLog(place.postgres, keyring) as log,
        mark_on(place) as mark,
        Erasures(log, keyring, mark),
    ):
        yield log


def checkpointer_on(place: Installation, log: PostgresEventLog) -> Checkpointer:
    """Signs the log. Raises `CheckpointsBusy` where another process does, and `CannotStart` as `signer_of` does."""
    return Checkpointer(place.postgres, place.checkpoints, signer_of(place), log.wait)


def signer_of(place: Installation) -> SigningKey:
    """The key that signs the log. Raises `CannotStart` where it is missing, or another than the one that did so far."""
    key = place.keys.checkpoints()
    check_signer(place.checkpoints, key)
    return key


def desk_for(place: Installation, log: PostgresEventLog) -> Desk:
    desk = Desk(
        log,
        log.clock,
        TimeOrderedIds(),
        PublicHolidays(),
        video_url_template=place.settings.video_url_template,
        memory_key=place.keys.memory(),
        credentials=Credentials(place.keys.blinds(), Argon2Passwords(), site=place.settings.origin),
    )
    # Folded states hold words too.
    log.forgotten.append(lambda organization, person: desk.cache.clear(organization))
    return desk


@asynccontextmanager
async def desk_on(place: Installation) -> AsyncIterator[Desk]:
    """A desk of this process's own, beside whatever other process writes. At the end the log is signed, unless a server
    runs that does so anyway."""
    async with log_on(place) as log:
        signer_of(place)
        yield desk_for(place, log)
        with contextlib.suppress(CheckpointsBusy):
            await checkpointer_on(place, log).close()
