"""After a person is erased nothing yields their name: no view, no row of the log, no search, no export, no backup made
afterwards, no memory of a process; and the log is still whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from redis.asyncio import Redis

import write_api.oauth.app
from commands.accounts import CloseAccount, CreateAccount, LockAccount
from commands.outside import LinkProvider
from domain import holder
from domain.access import Actor, Role
from domain.account import AccountClosed
from domain.client import Audience
from domain.events import ERASED
from domain.holder import HolderNamed
from infra.backup.create import create
from infra.backup.restore import restore
from infra.embedded.clickhouse import ClickHouse
from infra.erasures import Erasures, Mark
from infra.event_log.checkpoints import Checkpointer, SigningKey
from infra.event_log.log import PostgresEventLog
from infra.event_log.verify import verify
from infra.http.origins import Origins
from infra.http.service import Together
from infra.http.tokens import READ, WRITE, Bearers
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from infra.keys import KeyFolder
from streams.erasure import Eraser
from tests.clinic import ADMIN, DESK, ORGANIZATION, Clinic, in_days, patient_actor
from tests.conftest import Database, fresh_database
from tests.people import OPERATOR, PASSWORD
from tests.served import SECRET, Served, someone, token, visit
from tests.signing_in import Browser

# As they were told, and as an index might fold them.
NAMES = ("Quackenbush", "Zebulonia", "quackenbush", "zebulonia")
# From where they sign in, and with which programme.
ORIGIN = ("198.51.100.77", "Zebuphone/7")
SECRETS = (
    *NAMES,
    "+4930987654321",
    "4930987654321",
    "zebulonia@example.org",
    "Zebulon Street",
    "MRN-77",
    "my left knee",
    *ORIGIN,
)
EMAIL = "zebulonia@example.org"
DETAILS = {
    "names": [{"family": "Quackenbush", "given": ["Zebulonia"]}],
    "birth_date": "1951-02-03",
    "phones": [{"number": "+4930987654321"}],
    "emails": [{"address": "zebulonia@example.org"}],
    "addresses": [{"lines": ["7 Zebulon Street"], "city": "Berlin"}],
}
KEY = SigningKey(bytes(range(32)))


@asynccontextmanager
async def erasing(book: Served, dsn: str, folder: Path) -> AsyncIterator[Eraser]:
    """Another process that carries erasures out; this one, which answers, only hears of them. Its own round does not
    run: the test says when."""
    keyring, mark = PostgresKeyring(dsn, MasterKeyFile.at(folder / "master.key")), Mark(dsn)
    serving: Any = book.log._keyring
    book.log.forgotten.append(lambda organization, person: book.desk.cache.clear(organization))
    try:
        async with Erasures(book.log, serving, mark):
            yield Eraser(book.desk, book.log, keyring, mark)
    finally:
        await mark.close()
        await keyring.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


def holds(told: Any, secrets: tuple[str, ...] = SECRETS) -> list[str]:
    """Which of the words are there, whatever it is that is told."""
    text = told if isinstance(told, str) else json.dumps(told, default=str, ensure_ascii=False)
    return [secret for secret in secrets if secret in text]


def tables(dsn: str) -> str:
    """Every row of every table, bytes as the text that they may be."""
    with psycopg.connect(dsn) as connection:
        names = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        ).fetchall()
        rows = [connection.execute(f'SELECT * FROM "{name}"'.encode()).fetchall() for (name,) in names]
    return "\n".join(
        bytes(value).decode("latin-1") if isinstance(value, bytes) else str(value)
        for table in rows
        for row in table
        for value in row
    )


async def live_views(url: str) -> str:
    client: Any
    async with Redis.from_url(url) as client:
        found = []
        async for key in client.scan_iter(count=1000):
            kind = await client.type(key)
            value = {
                b"string": client.get,
                b"zset": lambda key: client.zrange(key, 0, -1),
                b"hash": client.hgetall,
            }[kind]
            found.append(f"{key!r} {await value(key)!r}")
        return "\n".join(found)


def figures_of(engine: ClickHouse) -> str:
    client = engine.connect()
    names = client.query("SELECT database, name FROM system.tables WHERE database LIKE 'facts%'").result_rows
    return "\n".join(str(client.query(f"SELECT * FROM {database}.{table}").result_rows) for database, table in names)


def files(folder: Path) -> str:
    return "\n".join(file.read_bytes().decode("latin-1") for file in folder.rglob("*") if file.is_file())


async def events(dsn: str, folder: Path) -> list[Any]:
    """The whole log, as a new process with all keys reads it."""
    keyring = PostgresKeyring(dsn, MasterKeyFile.at(folder / "master.key"))
    try:
        async with PostgresEventLog(dsn, keyring) as log:
            return [recorded.event for recorded in await log.read(0, 10_000)]
    finally:
        await keyring.close()


async def signing_in(book: Served, patient_id: str, folder: Path) -> None:
    """With an account, that was linked with an outside provider, in a browser; from there they ask by a token of an
    operator's too, which names no account."""
    origins = Origins(book.log, book.log.clock, TimeOrderedIds(), SECRET)
    (folder / "keys").mkdir()
    keys = KeyFolder(folder / "keys", make=True).token_keys()
    oauth = write_api.oauth.app.build(
        book.desk,
        keys,
        Bearers(keys, (WRITE, READ)),
        SECRET,
        issuer="http://daybook",
        organization=ORGANIZATION,
        audiences={Audience.WRITE: WRITE, Audience.READ: READ},
        origins=origins,
    )
    theirs: dict[str, Any] = {"role": Role.PATIENT, "patient_id": UUID(patient_id), "password": PASSWORD}
    made = await book.desk.handle(CreateAccount(email=EMAIL, **theirs), OPERATOR, ORGANIZATION)
    account_id = UUID(made.content["account_id"])
    own = Actor(str(account_id), Role.PATIENT, UUID(patient_id), account_id=account_id)
    own = replace(own, authenticated_at=book.log.clock.now())
    linked = LinkProvider(issuer="https://id.example.org", subject="Zebulonia-at-the-provider", email=EMAIL)
    await book.desk.handle(linked, own, ORGANIZATION)
    transport = httpx.ASGITransport(Together({"oauth": oauth, "read": book.reads}), client=(ORIGIN[0], 443))
    headers = {"User-Agent": ORIGIN[1], "Accept": "text/html"}
    async with httpx.AsyncClient(transport=transport, base_url="http://daybook", headers=headers) as http:
        browser = Browser("http://daybook")
        await browser.http.aclose()
        browser.http = http
        await browser.go("/oauth/sign-in")
        answer = await browser.sign_in(EMAIL)
        assert (answer.status_code, answer.url.path) == (200, "/oauth/sessions"), answer.text
        minted = {"Authorization": f"Bearer {token(patient_actor(UUID(patient_id)))}"}
        assert (await http.get(f"/read/patients/{patient_id}", headers=minted)).status_code == 200


async def a_life(book: Served, clinic: Clinic) -> str:
    """Somebody of whom much is known: a visit was booked with words, moved and cancelled with words."""
    made = await book.post("/patients", DESK, {"reference": "MRN-77", "details": DETAILS})
    patient_id: str = made.json()["patient_id"]
    own = patient_actor(UUID(patient_id))
    asked = visit(clinic, in_days(9), patient_id=patient_id, reason="my left knee, says Zebulonia")
    appointment = (await book.post("/appointments", own, asked)).json()["appointment_id"]
    moved = await book.post(f"/appointments/{appointment}/move", DESK, {"start": in_days(10).isoformat()})
    assert moved.status_code == 200, moved.text
    said = {"reason": "patient_ill", "note": "Zebulonia Quackenbush rang"}
    assert (await book.post(f"/appointments/{appointment}/cancel", own, said)).status_code == 200
    corrected = {**DETAILS, "language": "en"}
    assert (await book.put(f"/patients/{patient_id}/details", own, {"details": corrected})).status_code == 200
    await book.post(
        f"/patients/{patient_id}/consents",
        own,
        {"purpose": "research", "text_version": "1/en", "means": "online"},
    )
    return patient_id


async def test_nothing_yields_the_name_of_a_person_who_was_erased(
    figures: Served,
    database: Database,
    redis_server: str,
    clickhouse: ClickHouse,
    postgres: str,
    template: str,
    tmp_path: Path,
) -> None:
    book, clinic = figures, await figures.clinic()
    async with erasing(book, database.app, tmp_path) as eraser:
        patient_id = await a_life(book, clinic)
        await signing_in(book, patient_id, tmp_path)
        appointments = (await book.get(f"/patients/{patient_id}/appointments", DESK)).json()["appointments"]
        (appointment,) = [one["appointment_id"] for one in appointments]
        screens = (
            f"/patients/{patient_id}",
            f"/patients/{patient_id}/appointments",
            f"/patients/{patient_id}/consents",
            f"/patients/{patient_id}/export",
            f"/patients/{patient_id}/export?format=html",
            f"/appointments/{appointment}",
            f"/appointments/{appointment}/words",
        )
        # What is looked for is there to be found.
        assert holds((await book.get(screens[0], DESK)).text, NAMES[:2]) == list(NAMES[:2])
        assert holds((await book.get(screens[-1], ADMIN)).text)
        sought = {"json": {"name": "quack"}, "headers": {"Read-After": book.position}}
        assert holds((await book.send("POST", "/read/patients/search", DESK, **sought)).text)
        assert holds(repr(book.desk.cache._states))
        assert holds(repr(await events(database.app, tmp_path)), (*NAMES[:2], *ORIGIN)) == [*NAMES[:2], *ORIGIN]

        answer = await book.post(f"/patients/{patient_id}/erasure", ADMIN, {"ground": "consent_withdrawn"})
        assert (answer.status_code, answer.json()["outcome"]) == (200, "erased"), answer.text
        # This process has let go before anybody has destroyed the key.
        await until(lambda: not holds(repr(book.desk.cache._states)))
        assert not holds((await book.get(screens[0], DESK)).text)
        # Carrying it out closes the account, which is written down too.
        await eraser.sweep()
        assert await eraser.sweep() == await book.log.head()

        for screen in screens:
            shown = await book.get(screen, ADMIN)
            assert shown.status_code == 200, screen
            assert not holds(shown.text), screen
        found = await book.send("POST", "/read/patients/search", DESK, **sought)
        assert found.json() == {"patients": [], "more": False}
        told = (await book.get(screens[0], ADMIN)).json()
        assert (told["details"], told["reference"]) == (None, None)
        assert told["erased_at"] is not None
        assert not holds(repr(book.desk.cache._states))
        opened = await events(database.app, tmp_path)
        assert not holds(repr(opened))
        theirs = [one for one in opened if str(getattr(one, "patient_id", "")) == patient_id]
        sealed = {getattr(one, name) for one in theirs for name in one.SEALED_FIELDS}
        assert sealed == {ERASED, None}
        assert not holds(tables(database.superuser))
        assert not holds(await live_views(redis_server))
        assert not holds(await asyncio.to_thread(figures_of, clickhouse))
        assert not holds(await asyncio.to_thread(files, tmp_path))

        # Said later, it is not kept either.
        later = {**visit(clinic, in_days(12)), "patient_id": patient_id, "reason": "Zebulonia again"}
        refused = await book.post("/appointments", DESK, later)
        assert (refused.status_code, refused.json()["code"]) == (409, "person_erased")

        await Checkpointer(database.app, tmp_path / "checkpoints", KEY, book.log.wait).close()
        report = await asyncio.to_thread(verify, database.app, tmp_path / "checkpoints")
        assert report.ok, report.faults

        backup = tmp_path / "backup"
        await asyncio.to_thread(create, database.app, backup, KEY)
        with fresh_database(postgres, template) as restored:
            master = MasterKeyFile.at(tmp_path / "master.key")
            with ThreadPoolExecutor(1) as pool:
                pool.submit(restore, backup, restored.superuser, master, keys={KEY.id: KEY.public}).result()
            again = await events(restored.app, tmp_path)
            assert len(again) >= len(opened)
            assert not holds(repr(again))
            theirs = [one for one in again if str(getattr(one, "patient_id", "")) == patient_id]
            assert {getattr(one, name) for one in theirs for name in one.SEALED_FIELDS} == {ERASED, None}
            assert not holds(tables(restored.superuser))


async def test_accounts_that_were_closed_linked_or_locked_before_go_with_the_person(
    book: Served, clinic: Clinic, database: Database, tmp_path: Path
) -> None:
    patient_id = await a_life(book, clinic)
    await signing_in(book, patient_id, tmp_path)
    stream = holder.stream(UUID(patient_id))
    (named,) = (await book.log.load(ORGANIZATION, {stream: 0}))[stream]
    assert isinstance(named.event, HolderNamed)
    first = named.event.account_id
    await book.desk.handle(CloseAccount(account_id=first), OPERATOR, ORGANIZATION)
    theirs: dict[str, Any] = {"role": Role.PATIENT, "patient_id": UUID(patient_id), "password": PASSWORD}
    made = await book.desk.handle(CreateAccount(email=f"new.{EMAIL}", **theirs), OPERATOR, ORGANIZATION)
    second = UUID(made.content["account_id"])
    await book.desk.handle(LockAccount(account_id=second), OPERATOR, ORGANIZATION)
    await book.post(f"/patients/{patient_id}/erasure", ADMIN, {"ground": "objection"})
    async with erasing(book, database.app, tmp_path) as eraser:
        await eraser.sweep()
    told = await events(database.app, tmp_path)
    assert not holds(repr(told))
    of_both = [one for one in told if getattr(one, "account_id", None) in (first, second)]
    assert {getattr(one, name) for one in of_both for name in one.SEALED_FIELDS} == {ERASED}
    assert {one.account_id for one in of_both if isinstance(one, AccountClosed)} == {first, second}
    found = (await book.get(f"/patients/{patient_id}/export", ADMIN)).json()
    assert [(one["status"], one["email"]) for one in found["accounts"]] == [("closed", None)] * 2
    assert {one["address"] for one in found["origins"]} == {None}


async def test_a_crash_between_the_event_and_the_key_is_made_good_on_the_next_start(
    book: Served, clinic: Clinic, database: Database, tmp_path: Path
) -> None:
    patient_id = await a_life(book, clinic)
    await book.post(f"/patients/{patient_id}/erasure", ADMIN, {"ground": "objection"})
    assert any(holds(repr(one)) for one in await events(database.app, tmp_path)), "nobody has carried it out yet"
    # Whoever starts meanwhile does without the key as if it were gone.
    keyring, mark = PostgresKeyring(database.app, MasterKeyFile.at(tmp_path / "master.key")), Mark(database.app)
    async with PostgresEventLog(database.app, keyring) as log, Erasures(log, keyring, mark):
        assert not any(holds(repr(one)) for one in await log.read(0, 10_000))
    await mark.close()
    await keyring.close()
    async with erasing(book, database.app, tmp_path) as eraser, eraser:

        async def erased() -> bool:
            return not any(holds(repr(one)) for one in await events(database.app, tmp_path))

        async with asyncio.timeout(60):
            while not await erased():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        # Again, from the beginning: it changes nothing.
        with psycopg.connect(database.superuser, autocommit=True) as connection:
            connection.execute("DELETE FROM tracking")
        await eraser.sweep()


async def test_a_refusal_is_an_answer_with_a_reason_and_stands_in_the_log(book: Served, clinic: Clinic) -> None:
    own = patient_actor(clinic.patient)
    booked = await book.post("/appointments", own, visit(clinic, in_days(9)))
    path = f"/patients/{clinic.patient}/erasure"
    answer = (await book.post(path, ADMIN, {"ground": "consent_withdrawn"})).json()
    assert (answer["outcome"], answer["reason"]) == ("refused", "visits_to_come")
    await book.post(f"/appointments/{booked.json()['appointment_id']}/cancel", own)

    held = await book.post(f"/patients/{clinic.patient}/holds", ADMIN, {"reason": "litigation", "matter": "4 O 1/27"})
    assert held.status_code == 201, held.text
    answer = (await book.post(path, ADMIN, {"ground": "consent_withdrawn"})).json()
    assert (answer["reason"], answer["article"], answer["until"]) == ("legal_claims", "GDPR 17(3)(e)", None)
    stream = f"patient/{clinic.patient}"
    told = (await book.log.load("elm-street", {stream: 0}))[stream]
    assert [one.event.NAME for one in told] == [
        "PatientRegistered.v1",
        "ErasureRefused.v1",
        "LegalHoldPlaced.v1",
        "ErasureRefused.v1",
    ]
    lift = f"/patients/{clinic.patient}/holds/{held.json()['hold_id']}/lift"
    assert (await book.post(lift, ADMIN)).status_code == 200
    assert (await book.post(lift, ADMIN)).json()["code"] == "unknown_hold"
    (told_of,) = (await book.get(f"/patients/{clinic.patient}/holds", ADMIN)).json()["holds"]
    assert (told_of["reason"], told_of["matter"]) == ("litigation", "4 O 1/27")
    assert told_of["lifted_at"] > told_of["placed_at"]
    assert (await book.post(path, ADMIN, {"ground": "consent_withdrawn"})).json()["outcome"] == "erased"
    twice = await book.post(path, ADMIN, {"ground": "consent_withdrawn"})
    assert (twice.status_code, twice.json()["code"]) == (409, "person_erased")


@pytest.mark.parametrize("role", [Role.PATIENT, Role.PROVIDER, Role.FRONT_DESK, Role.AUDITOR, Role.ANALYST])
async def test_only_administrators_erase(book: Served, clinic: Clinic, role: Role) -> None:
    who = patient_actor(clinic.patient) if role is Role.PATIENT else someone(role, provider_id=clinic.provider)
    for path, body in (
        (f"/patients/{clinic.patient}/erasure", {"ground": "objection"}),
        (f"/patients/{clinic.patient}/holds", {"reason": "litigation"}),
    ):
        assert (await book.post(path, who, body)).status_code == 403
    assert (await book.put("/retention", who, {"years_after_last_visit": 7})).status_code == 403


async def test_records_are_kept_as_long_as_the_organization_says(book: Served, clinic: Clinic) -> None:
    for years, status in ((7, 200), (5, 422), (101, 422)):
        assert (await book.put("/retention", ADMIN, {"years_after_last_visit": years})).status_code == status
    told = (await book.get("/retention", DESK)).json()
    as_shipped = {"months_of_strangers": 72, "days_of_unverified": 30}
    assert told == {"years_after_last_visit": 7, "as_shipped": False} | as_shipped
    said = {"years_after_last_visit": 7, "months_of_strangers": 12, "days_of_unverified": 14}
    assert (await book.put("/retention", ADMIN, said)).json().items() >= said.items()
    # What is left out stays as it is.
    left_out = (await book.put("/retention", ADMIN, {"years_after_last_visit": 8})).json()
    assert (left_out["months_of_strangers"], left_out["days_of_unverified"]) == (12, 14)
    for nothing in ("months_of_strangers", "days_of_unverified"):
        assert (await book.put("/retention", ADMIN, said | {nothing: 0})).status_code == 422
    shipped = (await book.get("/retention", ADMIN, organization="another")).json()
    assert shipped == {"years_after_last_visit": 10, "as_shipped": True} | as_shipped
