"""A log, a few events to put into it, and short ways of saying so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar
from uuid import UUID

import pytest
import uuid_utils.compat as uuids

from domain.events import Event, Personal
from domain.ports import Context, Memory, NewEvent, Save
from infra.event_log.log import PostgresEventLog
from infra.keyring import MasterKeyFile, PostgresKeyring
from tests.conftest import Database

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Noted(Event):
    NAME: ClassVar[str] = "TestNoted.v1"
    number: int
    text: str = ""


class Confided(Event):
    NAME: ClassVar[str] = "TestConfided.v1"
    PERSON: ClassVar[str | None] = "patient"
    patient: UUID
    reason: Personal[str] | None = None
    notes: Personal[list[str]] | None = None
    code: str = ""


def context(organization: str = "clinic", actor: str = "desk") -> Context:
    return Context(organization, actor, uuids.uuid7(), uuids.uuid7())


def new(stream: str, event: Event | int) -> NewEvent:
    return NewEvent(stream, Noted(number=event) if isinstance(event, int) else event, NOON, uuids.uuid7())


def save(
    expected: Mapping[str, int],
    *events: NewEvent,
    memory: Memory | None = None,
    organization: str = "clinic",
    actor: str = "desk",
) -> Save:
    return Save(context(organization, actor), expected, events, memory)


def notes(stream: str, after: int, *numbers: int) -> Save:
    """A save of some notes to one stream, expected at version `after`."""
    return save({stream: after}, *(new(stream, number) for number in numbers))


def numbers(events: Sequence[object]) -> list[int]:
    return [event.event.number for event in events]  # type: ignore[attr-defined]


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that another task brings about."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture
async def keyring(database: Database, tmp_path: Path) -> AsyncIterator[PostgresKeyring]:
    keyring = PostgresKeyring(database.app, MasterKeyFile.at(tmp_path / "master.key"))
    yield keyring
    await keyring.close()


@pytest.fixture
async def log(database: Database, keyring: PostgresKeyring) -> AsyncIterator[PostgresEventLog]:
    async with PostgresEventLog(database.app, keyring) as log:
        yield log
