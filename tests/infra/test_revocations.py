"""What has ended is known to every process that checks tokens, and one that can't know says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from commands.accounts import ChangeRole, CreateAccount
from commands.loop import ACCOUNT, Desk
from commands.sessions import EndSession, EndSessions, StartSession
from domain.access import Actor, Role
from domain.ports import Clock
from infra import revocations
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.http.tokens import Caller
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from infra.revocations import Behind, Revocations
from tests.conftest import Database
from tests.people import PASSWORD, credentials

SYSTEM = Actor("operator", Role.SYSTEM)


class Later:
    """The log's clock, moved on."""

    def __init__(self, clock: Clock, by: timedelta) -> None:
        self._clock = clock
        self._by = by

    def now(self) -> datetime:
        return self._clock.now() + self._by


@pytest.fixture
async def log(database: Database, tmp_path: Path) -> AsyncIterator[PostgresEventLog]:
    keyring = PostgresKeyring(database.app, MasterKeyFile.at(tmp_path / "master.key"))
    async with PostgresEventLog(database.app, keyring) as log:
        yield log
    await keyring.close()


@pytest.fixture
def desk(log: PostgresEventLog) -> Desk:
    return Desk(log, log.clock, TimeOrderedIds(), PublicHolidays(), credentials=credentials())


async def signed_in(desk: Desk, organization: str = "main") -> Caller:
    made = CreateAccount(email=f"{uuid4().hex}@example.org", role=Role.ANALYST, password=PASSWORD)
    account_id = UUID((await desk.handle(made, SYSTEM, organization)).content["account_id"])
    stream = ACCOUNT.stream(account_id)
    session_id = uuid4()
    command = StartSession(
        account_id=account_id,
        session_id=session_id,
        era=(await desk.states(organization, [stream]))[stream][1].era,
        factors=("pwd",),
        authenticated_at=datetime.now(UTC),
    )
    await desk.handle(command, SYSTEM, organization)
    actor = Actor(str(account_id), Role.ANALYST, account_id=account_id, session_id=session_id, client_id=str(uuid4()))
    return Caller(organization, actor, era=command.era)


async def end(desk: Desk, caller: Caller) -> None:
    actor = caller.actor
    assert actor.account_id is not None
    assert actor.session_id is not None
    command = EndSession(account_id=actor.account_id, session_id=actor.session_id)
    await desk.handle(command, SYSTEM, caller.organization)


async def caught_up(reader: Revocations, log: PostgresEventLog) -> None:
    head = await log.head()
    while reader.position < head:  # noqa: ASYNC110 - a fact of the reader, which tells nobody
        await asyncio.sleep(0.01)


async def test_an_ending_is_known_whoever_wrote_it_and_before_or_after_the_start(
    log: PostgresEventLog, desk: Desk
) -> None:
    before, after, going_on = [await signed_in(desk) for _ in range(3)]
    made = log.clock.now().timestamp()
    await end(desk, before)
    async with Revocations(log, log.clock) as reader, Revocations(log, log.clock) as another:
        assert reader.ended(before, made)
        assert not reader.ended(after, made)
        await end(desk, after)
        for each in (reader, another):
            await caught_up(each, log)
            assert each.ended(after, made)
            assert not each.ended(going_on, made)
            # The same ids in another organization are other people's.
            assert not each.ended(Caller("oak-street", after.actor), made)


async def test_a_token_ends_with_its_era_and_no_clock_is_asked(log: PostgresEventLog, desk: Desk) -> None:
    caller = await signed_in(desk)
    assert caller.era is not None
    account_id = caller.actor.account_id
    assert account_id is not None
    await desk.handle(ChangeRole(account_id=account_id, role=Role.FRONT_DESK), SYSTEM, "main")
    later, earlier = log.clock.now().timestamp() + 60, log.clock.now().timestamp() - 60
    async with Revocations(log, log.clock) as reader:
        assert reader.ended(caller, later)
        assert not reader.ended(replace(caller, era=caller.era + 1), earlier)
        # One from before tokens said so is judged by when it was made.
        assert reader.ended(replace(caller, era=None), earlier)
        assert not reader.ended(replace(caller, era=None), later)


async def test_a_token_of_an_operators_rests_on_nothing(log: PostgresEventLog, desk: Desk) -> None:
    caller = await signed_in(desk)
    await end(desk, caller)
    async with Revocations(log, log.clock) as reader:
        assert not reader.ended(Caller("main", Actor("admin-1", Role.ADMIN)), 0.0)


async def test_what_ended_before_the_oldest_token_was_made_is_forgotten(
    log: PostgresEventLog, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = await signed_in(desk)
    await end(desk, caller)
    made = log.clock.now().timestamp()
    async with Revocations(log, Later(log.clock, timedelta(hours=1))) as reader:
        assert not reader.ended(caller, made)
    monkeypatch.setattr(revocations, "_LOOK_AGAIN", 0.05)
    clock = Later(log.clock, timedelta())
    async with Revocations(log, clock) as reader:
        assert reader.ended(caller, made)
        clock._by = timedelta(hours=1)
        while reader.ended(caller, made):  # noqa: ASYNC110 - time passes for it alone
            await asyncio.sleep(0.01)


async def test_many_endings_at_once_are_all_known(
    log: PostgresEventLog, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocations, "_BITE", 3)
    callers = [await signed_in(desk) for _ in range(10)]
    async with Revocations(log, log.clock) as reader:
        for caller in callers:
            assert caller.actor.account_id is not None
            await desk.handle(EndSessions(account_id=caller.actor.account_id), SYSTEM, "main")
        await caught_up(reader, log)
        assert all(reader.ended(caller, 0.0) for caller in callers)
    async with Revocations(log, log.clock) as reader:
        assert all(reader.ended(caller, 0.0) for caller in callers)


async def test_a_reader_that_can_not_follow_says_so(
    log: PostgresEventLog, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Revocations(log, log.clock) as reader:
        assert await reader.check() == "known"
        monkeypatch.setattr(revocations, "_LATE", -1.0)
        with pytest.raises(Behind):
            await reader.check()
