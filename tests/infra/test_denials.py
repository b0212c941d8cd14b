"""Whoever is turned away is in the log, with where they knocked and from where; and nobody fills it by knocking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from domain.access import Role
from domain.denial import STRANGER, AccessRefused, strangers
from domain.events import ERASED
from domain.ports import LogUnavailable, Recorded, Save, Saved
from infra.event_log.log import PostgresEventLog
from infra.http.address import Outside, Proxies
from infra.http.denials import Denials
from infra.http.service import Together
from infra.http.tokens import CALLER, Caller, SigningKey, mint
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from tests.clinic import ORGANIZATION
from tests.conftest import Database
from tests.served import KEY, Served, served, someone, token

BEHIND = Outside(Proxies.of(["127.0.0.0/8"]))
OURS = "main"


@pytest.fixture
async def book(database: Database, redis_server: str, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(database.app, redis_server, None, tmp_path) as book:
        yield book


def denials_of(book: Served, **more: Any) -> Denials:
    return Denials(book.log, book.log.clock, TimeOrderedIds(), OURS, **more)


async def recorded(book: Served, after: int = 0) -> Sequence[Recorded]:
    return [one for one in await book.log.read(after, 1000) if isinstance(one.event, AccessRefused)]


def refused(one: Recorded) -> AccessRefused:
    assert isinstance(one.event, AccessRefused)
    return one.event


async def test_each_kind_of_refusal_is_told_with_its_route_and_its_address(book: Served) -> None:
    denials = denials_of(book)
    together = Together({"write": book.writes, "read": book.reads}, BEHIND, denials.note)
    now = datetime.now(UTC)
    usual: dict[str, Any] = {"role": Role.ADMIN, "organization": ORGANIZATION, "subject": "admin-7"}
    hour = timedelta(hours=1)
    expired = mint(KEY, **usual, now=now - 3 * hour, lifetime=hour)
    forged = mint(SigningKey(bytes(31) + b"x"), **usual, now=now, lifetime=hour)
    analyst = token(someone(Role.ANALYST))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(together), base_url="http://book") as http:

        async def knock(bearer: str | None, address: str) -> str:
            headers = {"X-Forwarded-For": address} | ({"Authorization": f"Bearer {bearer}"} if bearer else {})
            code: str = (await http.post("/write/patients", json={}, headers=headers)).json()["code"]
            return code

        assert await knock(expired, "192.0.2.1") == "token_expired"
        assert await knock(forged, "192.0.2.2") == "token_invalid"
        assert await knock(None, "192.0.2.3") == "unauthenticated"
        assert await knock(None, "192.0.2.3") == "unauthenticated"
        assert await knock(analyst, "192.0.2.4") == "not_allowed"
        assert (await http.get("/read/nowhere")).status_code == 404
        # A patient who guesses another's id is told that it is unknown, and the audit that they guessed.
        patient_id = uuid4()
        patient = token(someone(Role.PATIENT, patient_id=patient_id))
        guessed = {"Authorization": f"Bearer {patient}", "X-Forwarded-For": "192.0.2.5"}
        assert (await http.get(f"/read/patients/{uuid4()}", headers=guessed)).json()["code"] == "unknown"
    await denials.write()
    found = {refused(one).code: one for one in await recorded(book)}
    assert {code: (refused(one).address, refused(one).times) for code, one in found.items()} == {
        "token_expired": ("192.0.2.1", 1),
        "token_invalid": ("192.0.2.2", 1),
        "unauthenticated": ("192.0.2.3", 2),
        "not_allowed": ("192.0.2.4", 1),
        "unknown": ("192.0.2.5", 1),
    }
    assert {code: refused(one).operation for code, one in found.items() if code != "unknown"} == dict.fromkeys(
        ("token_expired", "token_invalid", "unauthenticated", "not_allowed"), "register_patient"
    )
    assert refused(found["unknown"]).operation == "read_patient"
    known = {"not_allowed": "analyst-7", "unknown": "patient-7"}
    for code, one in found.items():
        actor = known.get(code)
        assert (one.organization, one.actor) == ((ORGANIZATION, actor) if actor else (OURS, STRANGER))
        # A patient's token without an account is the patient's all the same.
        whose = str(patient_id) if code == "unknown" else actor or strangers(now)
        assert refused(one).whose == whose


async def test_an_address_is_sealed_and_can_be_forgotten(book: Served, database: Database, tmp_path: Path) -> None:
    denials = denials_of(book)
    denials.note({"type": "http", "client": ("192.0.2.77", 1), "headers": []}, "token_invalid")
    await denials.write()
    (one,) = await recorded(book)
    assert refused(one).address == "192.0.2.77"
    with psycopg.connect(database.superuser) as connection:
        rows = connection.execute("SELECT payload FROM events").fetchall()
    assert rows
    assert not any(b"192.0.2.77" in row[0] for row in rows)
    keyring = PostgresKeyring(database.app, MasterKeyFile.at(tmp_path / "master.key"))
    await keyring.forget(OURS, refused(one).whose)
    async with PostgresEventLog(database.app, keyring) as log:
        (one,) = [each for each in await log.read(0, 1000) if isinstance(each.event, AccessRefused)]
    await keyring.close()
    assert refused(one).address is ERASED


def knock_of(address: str, operation: str = "", caller: Caller | None = None) -> dict[str, Any]:
    class Route:
        name = operation

    return {"type": "http", "client": (address, 1), "headers": [], "route": Route()} | (
        {CALLER: caller} if caller else {}
    )


async def test_however_many_knock_the_log_grows_by_a_bounded_number(book: Served) -> None:
    denials = denials_of(book, most=20, most_of_one=3)
    for number in range(5000):
        address = f"10.{number % 7}.{number % 251}.1"
        denials.note(knock_of(address, f"operation-{number % 40}"), ("token_invalid", "unauthenticated")[number % 2])
    await denials.write()
    found = [refused(one) for one in await recorded(book)]
    assert len(found) <= 22
    assert sum(one.times for one in found) == 5000, "every one is counted"
    assert [one.address for one in found].count(None) == 2


async def test_one_address_is_told_apart_by_a_few_operations(book: Served) -> None:
    denials = denials_of(book, most=20, most_of_one=3)
    for number in range(100):
        denials.note(knock_of("192.0.2.7", f"operation-{number}"), "not_allowed")
    denials.note(knock_of("192.0.2.8", "another"), "not_allowed")
    await denials.write()
    found = {(one.address, one.operation): one.times for one in map(refused, await recorded(book))}
    assert found == {
        ("192.0.2.7", "operation-0"): 1,
        ("192.0.2.7", "operation-1"): 1,
        ("192.0.2.7", "operation-2"): 1,
        ("192.0.2.7", ""): 97,
        ("192.0.2.8", "another"): 1,
    }


async def test_who_is_known_stays_known_however_many_knock_from_their_address(book: Served) -> None:
    denials = denials_of(book, most=4, most_of_one=2)
    for number in range(20):
        denials.note(knock_of("192.0.2.7", f"operation-{number}"), "token_invalid")
    snoop = Caller("clinic-b", someone(Role.FRONT_DESK))
    for _ in range(50):
        denials.note(knock_of("192.0.2.7", "read_patient", snoop), "unknown")
    await denials.write()
    (found,) = [one for one in await recorded(book) if refused(one).code == "unknown"]
    assert (found.organization, found.actor, refused(found).times) == ("clinic-b", "front_desk-7", 50)


async def test_what_the_log_cannot_take_now_it_is_told_later(book: Served) -> None:
    class Away:
        def __init__(self) -> None:
            self.away = True

        async def append(self, save: Save) -> Saved:
            if self.away:
                raise LogUnavailable
            return await book.log.append(save)

    away: Any = Away()
    denials = Denials(away, book.log.clock, TimeOrderedIds(), OURS)
    denials.note(knock_of("192.0.2.7", "read"), "token_invalid")
    await denials.write()
    denials.note(knock_of("192.0.2.7", "read"), "token_invalid")
    away.away = False
    await denials.write()
    await denials.write()
    (one,) = await recorded(book)
    assert refused(one).times == 2
    assert refused(one).first_at < refused(one).last_at


async def test_while_the_log_is_away_what_waits_is_bounded_and_all_of_it_is_counted(book: Served) -> None:
    class Away:
        there = False

        async def append(self, save: Save) -> Saved:
            if not self.there:
                raise LogUnavailable
            return await book.log.append(save)

    away: Any = Away()
    denials = Denials(away, book.log.clock, TimeOrderedIds(), OURS, most=20)
    for turn in range(30):
        for number in range(20):
            denials.note(knock_of(f"192.0.{turn}.{number}", "read"), "token_invalid")
        await denials.write()
    away.there = True
    await denials.write()
    found = [refused(one) for one in await recorded(book)]
    assert len(found) <= 21
    assert sum(one.times for one in found) == 600


async def test_it_writes_by_itself_and_at_its_end(book: Served) -> None:
    async with denials_of(book, every=0.01) as denials:
        denials.note(knock_of("192.0.2.7"), "token_invalid")
        while await book.log.head() == 0:
            await book.log.wait(0, 60)
        assert await recorded(book)
    head = await book.log.head()
    async with denials_of(book, every=3600) as denials:
        denials.note(knock_of("192.0.2.8", caller=Caller("elm", someone(Role.PATIENT, patient_id=uuid4()))), "x")
        assert await recorded(book, head) == []
    (one,) = await recorded(book, head)
    assert one.organization == "elm"
