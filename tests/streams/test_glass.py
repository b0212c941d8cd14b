"""The privacy officer hears of every broken glass, whatever fails in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from commands.glass import BreakGlass
from commands.loop import Desk
from commands.patients import RegisterPatient
from domain.access import Actor, Role
from domain.glass import GlassReason
from domain.ports import MailLost
from infra.erasures import Mark
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from streams.glass import GlassNotices
from tests.clinic import ADMIN, ORGANIZATION
from tests.conftest import Database

OFFICER = "privacy@example.org"
WORDS = "Found unconscious in the waiting room."
stranger = Actor("dr-stranger", Role.PROVIDER)


@dataclass
class Letterbox:
    """A mail server that is away as often as it is told to."""

    away: int = 0
    letters: list[tuple[str, str, str]] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, to: str, subject: str, text: str) -> None:
        if self.away:
            self.away -= 1
            raise MailLost("away")
        self.letters.append((to, subject, text))
        self.came.set()


@pytest.fixture
async def log(database: Database, tmp_path: Path) -> AsyncIterator[PostgresEventLog]:
    keyring = PostgresKeyring(database.app, MasterKeyFile.at(tmp_path / "master.key"))
    async with PostgresEventLog(database.app, keyring) as opened:
        yield opened
    await keyring.close()


@pytest.fixture
async def mark(database: Database) -> AsyncIterator[Mark]:
    mark = Mark(database.app, "glass")
    yield mark
    await mark.close()


async def broken(log: PostgresEventLog) -> UUID:
    """The patient over whom somebody broke the glass."""
    desk = Desk(log, log.clock, TimeOrderedIds(), PublicHolidays())
    patient = UUID((await desk.handle(RegisterPatient(), ADMIN, ORGANIZATION)).content["patient_id"])
    command = BreakGlass(patient_id=patient, reason=GlassReason.EMERGENCY, words=WORDS)
    await desk.handle(command, stranger, ORGANIZATION)
    return patient


async def test_each_is_told_of_once_and_without_the_words(log: PostgresEventLog, mark: Mark) -> None:
    patient = await broken(log)
    letterbox = Letterbox()
    await GlassNotices(log, mark, letterbox, OFFICER).sweep()
    ((to, subject, text),) = letterbox.letters
    assert to == OFFICER
    assert "emergency" in subject
    assert str(patient) in text
    assert stranger.id in text
    assert WORDS not in text
    # Another process, or this one after a restart.
    await GlassNotices(log, mark, letterbox, OFFICER).sweep()
    assert len(letterbox.letters) == 1
    await broken(log)
    await GlassNotices(log, mark, letterbox, OFFICER).sweep()
    assert len(letterbox.letters) == 2


async def test_what_did_not_leave_is_sent_later_and_what_did_is_not_sent_again(
    log: PostgresEventLog, mark: Mark
) -> None:
    first = await broken(log)
    letterbox = Letterbox()
    await GlassNotices(log, mark, letterbox, OFFICER).sweep()
    second = await broken(log)
    letterbox.away = 1
    with pytest.raises(MailLost):
        await GlassNotices(log, mark, letterbox, OFFICER).sweep()
    await GlassNotices(log, mark, letterbox, OFFICER).sweep()
    (_, _, earlier), (_, _, later) = letterbox.letters
    assert str(first) in earlier
    assert str(second) in later


async def test_it_hears_of_what_happens_while_it_is_open(log: PostgresEventLog, mark: Mark) -> None:
    letterbox = Letterbox()
    async with GlassNotices(log, mark, letterbox, OFFICER):
        await broken(log)
        await asyncio.wait_for(letterbox.came.wait(), 60)
