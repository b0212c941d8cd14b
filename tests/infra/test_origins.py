"""Strangers can't fill the log by inventing programmes and addresses; whoever a token vouches for is told apart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from domain.access import Actor, Role
from domain.denial import strangers
from domain.origin import OriginSeen
from infra.http.origins import Origins
from infra.http.tokens import CALLER, Caller
from infra.ids import TimeOrderedIds
from tests.clinic import DESK, ORGANIZATION
from tests.conftest import Database
from tests.served import SECRET, Served, served

SIGN_IN = Actor("sign-in", Role.SYSTEM)


@pytest.fixture
async def book(database: Database, redis_server: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(database.app, redis_server, None, tmp_path) as book:
        yield book


def knock(address: str, agent: str, caller: Caller | None = None) -> dict[str, Any]:
    scope: dict[str, Any] = {"type": "http", "client": (address, 1), "headers": [(b"user-agent", agent.encode())]}
    return scope | ({CALLER: caller} if caller else {})


async def seen(book: Served) -> list[OriginSeen]:
    return [one.event for one in await book.log.read(0, 5000) if isinstance(one.event, OriginSeen)]


async def test_a_stranger_who_invents_programmes_is_soon_one_of_many(book: Served) -> None:
    origins = Origins(book.log, book.log.clock, TimeOrderedIds(), SECRET)
    ids = [await origins.of(knock("192.0.2.7", f"agent/{number}"), ORGANIZATION, SIGN_IN) for number in range(900)]
    found = await seen(book)
    assert len(found) == 21
    assert len(set(ids)) == 21
    assert len(set(ids[20:])) == 1
    assert {one.person for one in found} == {strangers(book.log.clock.now())}
    assert (found[0].address, found[0].agent) == ("192.0.2.7", "agent/0")
    assert (found[-1].address, found[-1].agent) == ("192.0.2.7", None)
    assert await origins.of(knock("192.0.2.7", "agent/3"), ORGANIZATION, SIGN_IN) == ids[3], "known is known"
    another: UUID = await origins.of(knock("192.0.2.8", "agent/3"), ORGANIZATION, SIGN_IN)
    assert another not in ids
    assert (await seen(book))[-1].address == "192.0.2.8", "one who invents takes nothing from others"


async def test_strangers_from_everywhere_are_bounded_too(book: Served) -> None:
    origins = Origins(book.log, book.log.clock, TimeOrderedIds(), SECRET)
    for number in range(800):
        await origins.of(knock(f"2001:db8:{number:x}::1", "agent"), ORGANIZATION, SIGN_IN)
    found = await seen(book)
    assert 600 <= len(found) <= 610
    assert (found[-1].address, found[-1].agent) == ("", None)


async def test_whom_a_token_vouches_for_is_told_apart(book: Served) -> None:
    origins = Origins(book.log, book.log.clock, TimeOrderedIds(), SECRET)
    caller = Caller(ORGANIZATION, DESK)
    ids = {await origins.of(knock("192.0.2.7", f"agent/{n}", caller), ORGANIZATION, DESK) for n in range(50)}
    assert len(ids) == 50
    assert {one.person for one in await seen(book)} == {DESK.id}
