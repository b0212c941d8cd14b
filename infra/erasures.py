"""Hears of people who are forgotten, in every process that may hold their keys. In: the log. Out: keys dropped.

Who carries an erasure out is another's business (`streams/erasure.py`); here each process lets go of what it remembers,
within a second or two, whether or not the key is destroyed already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self

from commands.loop import Desk
from domain.account import RegistrationLapsed
from domain.denial import strangers
from domain.patient import PersonErased
from domain.ports import LogError
from domain.retention import StrangersForgotten
from infra.event_log.connections import Connections
from infra.event_log.log import PostgresEventLog
from infra.installation import Installation
from infra.keyring import PostgresKeyring
from streams.erasure import BITE, FORGETTING, Eraser, accounts_of
from streams.while_open import WhileOpen

# The log is asked no more often, however fast it grows.
_PAUSE: Final = 0.5
_PATIENCE: Final = 30.0
AGAIN: Final = 120.0
_MARK: Final = "erasures"
# What lies in a detached part of the archive was carried out long before that was detached.
_READ = (
    "SELECT greatest((SELECT position FROM tracking WHERE application = %s),"
    " (SELECT max(upto) FROM archive_parts WHERE detached_at IS NOT NULL), 0)"
)
_WRITE = (
    "INSERT INTO tracking AS t (application, position) VALUES (%s, %s) ON CONFLICT (application)"
    " DO UPDATE SET position = greatest(t.position, excluded.position)"
)

_log = logging.getLogger("daybook.erasures")


class Mark:
    """How far something that follows from events in the log is carried out, kept in the database under its name."""

    def __init__(self, dsn: str, name: str = _MARK) -> None:
        self._connections = Connections(dsn, name, size=1)
        self._name = name

    async def close(self) -> None:
        await self._connections.close()

    async def read(self) -> int:
        """Raises `LogUnavailable`."""
        rows = await self._connections.fetch(_READ, (self._name,))
        return int(rows[0][0])

    async def write(self, position: int) -> None:
        """Raises `LogUnavailable`."""
        await self._connections.fetch(_WRITE, (self._name, position))


@asynccontextmanager
async def mark_on(place: Installation) -> AsyncIterator[Mark]:
    mark = Mark(place.postgres)
    try:
        yield mark
    finally:
        await mark.close()


class Erasures(WhileOpen):
    """While it is open, the keyring lets go of whoever is forgotten, and those in the log's `forgotten` hear of it."""

    title = "erasures"

    def __init__(self, log: PostgresEventLog, keyring: PostgresKeyring, mark: Mark) -> None:
        self._events = log
        self._keyring = keyring
        self._mark = mark
        self._position = 0

    async def __aenter__(self) -> Self:
        """Raises `LogUnavailable`."""
        # What is carried out needs no hearing of: there is no key. What a crash left does.
        self._position = await self._mark.read()
        head = await self._events.head()
        while self._position < head:
            await self._hear(min(self._position + BITE, head))
        return await super().__aenter__()

    async def _run(self) -> None:
        while True:
            try:
                await self._hear(await self._events.wait(self._position, _PATIENCE))
            except (LogError, OSError) as error:
                _log.warning("erasures are looked for again later (%s)", type(error).__name__)
            except Exception as error:  # a fault of ours: whoever is forgotten later must be heard of all the same
                _log.error("erasures can't be looked for (%s)", type(error).__name__)
            await asyncio.sleep(_PAUSE)

    async def _hear(self, upto: int) -> None:
        for recorded in await self._events.named(FORGETTING, self._position, upto):
            if isinstance(recorded.event, StrangersForgotten):
                # Nothing that is folded holds a word of theirs.
                self._keyring.let_go(recorded.organization, strangers(recorded.event.month))
            if isinstance(recorded.event, RegistrationLapsed):
                self._let_go(recorded.organization, str(recorded.event.account_id))
            if isinstance(recorded.event, PersonErased):
                for account_id in await accounts_of(self._events, recorded.organization, recorded.event.patient_id):
                    self._keyring.let_go(recorded.organization, str(account_id))
                self._let_go(recorded.organization, str(recorded.event.patient_id))
        self._position = upto

    def _let_go(self, organization: str, person: str) -> None:
        self._keyring.let_go(organization, person)
        self._tell(organization, person)
        # A command under way may remember what it had read; no command takes as long as this.
        asyncio.get_running_loop().call_later(AGAIN, self._tell, organization, person)

    def _tell(self, organization: str, person: str) -> None:
        for told in self._events.forgotten:
            told(organization, person)


@asynccontextmanager
async def eraser_on(place: Installation, desk: Desk, log: PostgresEventLog) -> AsyncIterator[Eraser]:
    """Who carries erasures out, once they are entered."""
    keyring = PostgresKeyring(place.postgres, place.keys.master(), size=1)
    try:
        async with mark_on(place) as mark:
            yield Eraser(desk, log, keyring, mark)
    finally:
        await keyring.close()
