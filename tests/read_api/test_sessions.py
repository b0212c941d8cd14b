"""Where somebody is signed in, and which apps may be, as the log has it at this moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

from commands.accounts import CreateAccount
from commands.clients import RegisterClient, RemoveClient
from commands.loop import ACCOUNT, NOTHING
from commands.sessions import EndSession, StartSession
from domain.access import Actor, Role
from domain.client import Details, Grant, Kind
from domain.session import Ending
from tests.clinic import ADMIN, ORGANIZATION, SYSTEM
from tests.people import PASSWORD
from tests.served import Served, someone


async def account(book: Served) -> Actor:
    made = CreateAccount(email="grace@example.org", role=Role.FRONT_DESK, password=PASSWORD)
    answer = await book.desk.handle(made, SYSTEM, ORGANIZATION)
    return replace(someone(Role.FRONT_DESK), account_id=UUID(answer.content["account_id"]))


async def started(book: Served, who: Actor) -> UUID:
    assert who.account_id is not None
    stream = ACCOUNT.stream(who.account_id)
    state = (await book.desk.catch_up(ORGANIZATION, {stream: NOTHING}))[stream][1]
    session_id = uuid4()
    command = StartSession(
        account_id=who.account_id,
        session_id=session_id,
        era=state.era,
        factors=("pwd",),
        authenticated_at=datetime.now(UTC),
        address="192.0.2.7",
        user_agent="A browser",
    )
    await book.desk.handle(command, SYSTEM, ORGANIZATION)
    return session_id


async def test_one_sees_where_one_is_signed_in(book: Served) -> None:
    grace = await account(book)
    assert grace.account_id is not None
    gone, here, there = [await started(book, grace) for _ in range(3)]
    ended = EndSession(account_id=grace.account_id, session_id=gone, reason=Ending.SIGNED_OUT)
    await book.desk.handle(ended, SYSTEM, ORGANIZATION)
    path = f"/accounts/{grace.account_id}/sessions"
    answer = await book.get(path, replace(grace, session_id=here))
    shown = {one["session_id"]: one for one in answer.json()["sessions"]}
    assert set(shown) == {str(here), str(there)}
    assert (shown[str(here)]["address"], shown[str(here)]["user_agent"]) == ("192.0.2.7", "A browser")
    assert shown[str(there)]["factors"] == ["pwd"]
    told = (await book.get(path, ADMIN)).json()["sessions"]
    assert [(one["address"], one["user_agent"]) for one in told] == [(None, None)] * 2
    stranger = replace(someone(Role.PATIENT, patient_id=uuid4()), account_id=uuid4())
    for who, whose in ((stranger, grace.account_id), (someone(Role.FRONT_DESK), grace.account_id), (ADMIN, uuid4())):
        answer = await book.get(f"/accounts/{whose}/sessions", who)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown")


async def test_administrators_see_which_apps_there_are(book: Served) -> None:
    details = Details(
        name="Laboratory",
        kind=Kind.CONFIDENTIAL,
        grants=(Grant.CLIENT_CREDENTIALS,),
        scopes=("system/Appointment.rs",),
    )
    kept, gone = [
        (await book.desk.handle(RegisterClient(details=details, secret="5e" * 32), ADMIN, ORGANIZATION)).content[
            "client_id"
        ]
        for _ in range(2)
    ]
    await book.desk.handle(RemoveClient(client_id=UUID(gone)), ADMIN, ORGANIZATION)
    answer = await book.get("/clients", ADMIN)
    assert [one["client_id"] for one in answer.json()["clients"]] == [kept]
    # Nor its hash.
    assert "5e5e" not in answer.text
