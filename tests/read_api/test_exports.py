"""A person gets all that is held of them, for machines and for people, and nobody else does."""

from __future__ import annotations

import asyncio
from functools import partial
from html.parser import HTMLParser
from typing import Any
from uuid import UUID, uuid4

import pytest

from commands.accounts import CreateAccount, FollowLink, RegisterAccount
from commands.loop import NOTHING, Command, Decision
from commands.outside import LinkProvider, UnlinkProvider
from commands.sessions import EndSession, StartSession
from commands.sign_in import SIGN_IN, CheckPassword
from domain import account
from domain.access import Actor, Role
from domain.account import LinkPurpose, PasskeyAdded
from domain.ports import Context, NewEvent, Save
from infra.http.origins import Origins
from read_api import exports
from read_api.exports import WITHHELD
from tests.clinic import ADMIN, DESK, ORGANIZATION, Clinic, in_days, patient_actor
from tests.people import OPERATOR, PASSWORD
from tests.read_api.test_patients import ANNA, registered
from tests.served import Served, someone, visit

NASTY = "<script>alert(1)</script>"


class Page(HTMLParser):
    """The words of a page, and whatever it would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words = ""
        self.reaching: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.reaching += [tag] * (tag in ("script", "link", "img", "iframe", "form"))
        self.reaching += [name for name, _ in attrs if name.startswith("on") or name in ("src", "href", "style")]

    def handle_data(self, data: str) -> None:
        self.words += data


async def a_life(book: Served, clinic: Clinic) -> str:
    patient_id = await registered(book, reference="MRN-1", details=ANNA)
    own = patient_actor(UUID(patient_id))
    asked = visit(clinic, in_days(9), patient_id=patient_id, reason=f"my knee {NASTY}")
    made = await book.post("/appointments", own, asked)
    said = {"reason": "patient_ill", "note": "a cold"}
    await book.post(f"/appointments/{made.json()['appointment_id']}/cancel", own, said)
    later = visit(clinic, in_days(12), patient_id=patient_id)
    assert (await book.post("/appointments", own, later)).status_code == 201
    corrected = {**ANNA, "addresses": [{"lines": ["2 Other Street"], "city": "Bonn"}]}
    await book.put(f"/patients/{patient_id}/details", own, {"details": corrected, "source": "patient"})
    agreed = {"purpose": "sms_messages", "text_version": "1/en", "means": "online"}
    await book.post(f"/patients/{patient_id}/consents", own, agreed)
    assert (await book.get(f"/patients/{patient_id}", DESK)).status_code == 200
    await book.post(f"/patients/{patient_id}/erasure", ADMIN, {"ground": "objection"})
    return patient_id


async def test_writing_a_long_export_lets_others_have_their_turn(book: Served, clinic: Clinic) -> None:
    patient_id = await a_life(book, clinic)
    # Somebody looked, so that the next export tells of it.
    await book.get(f"/patients/{patient_id}", DESK)
    told = (await book.get(f"/patients/{patient_id}/export", patient_actor(UUID(patient_id)))).json()
    found = exports.PersonExport.model_validate(told)
    long = found.model_copy(update={"looks": found.looks[:1] * 20_000})
    for write in (exports.document, exports.page):
        writing, turns = asyncio.ensure_future(write(long)), 0
        while not writing.done():
            await asyncio.sleep(0)
            turns += 1
        # Nothing else is waited for here: a turn is one that writing gave away, at every 500 looks or sooner.
        assert turns >= 20_000 / 500
        assert len(writing.result()) > 20_000


async def test_a_person_gets_all_that_is_held_of_them(book: Served, clinic: Clinic) -> None:
    patient_id = await a_life(book, clinic)
    answer = await book.get(f"/patients/{patient_id}/export", patient_actor(UUID(patient_id)))
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert answer.text == exports.PersonExport.model_validate(told).model_dump_json()
    assert (told["patient_id"], told["reference"], told["erased_at"]) == (patient_id, "MRN-1", None)
    assert [one["details"]["addresses"][0]["city"] for one in told["tellings"]] == ["Berlin", "Bonn"]
    assert [one["source"] for one in told["tellings"]] == [None, "patient"]
    cancelled, booked = told["appointments"]
    assert cancelled["words"]["reason"] == f"my knee {NASTY}"
    assert cancelled["words"]["cancellation_note"] == "a cold"
    assert "cancelled" in cancelled["history"][-1]
    assert (cancelled["status"], booked["status"]) == ("cancelled", "booked")
    assert [(one["purpose"], one["given"]) for one in told["consents"]] == [("sms_messages", True)]
    (look,) = [one for one in told["looks"] if one["role"] == "front_desk"]
    assert look["purpose"] == "TREATMENT"
    (refused,) = told["refused_erasures"]
    assert (refused["reason"], refused["article"]) == ("visits_to_come", "GDPR 17(1)(a)")
    last = in_days(12).date().isoformat()
    assert told["kept"]["last_visit"] == last
    assert told["kept"]["until"] == f"{int(last[:4]) + 10}{last[4:]}"
    assert told["purposes"]
    assert told["rights"]


async def test_the_page_says_the_same_to_people_and_neither_fetches_nor_runs_anything(
    book: Served, clinic: Clinic
) -> None:
    patient_id = await a_life(book, clinic)
    answer = await book.get(f"/patients/{patient_id}/export", ADMIN, params={"format": "html"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "script-src" not in answer.headers["content-security-policy"]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    page = Page(answer.text)
    assert page.reaching == []
    for words in ("Dr. Anna Maria Exämple", "1987-05-04", "+4930123456", "Bonn", "Berlin", "MRN-1", "a cold", NASTY):
        assert words in page.words, words


async def accounted(book: Served, patient_id: str) -> Actor:
    """Their account, with a passkey, a provider and a session, and an app that they let in; and somebody who failed."""
    run = partial(book.desk.handle, organization=ORGANIZATION)
    theirs: dict[str, Any] = {"role": Role.PATIENT, "patient_id": UUID(patient_id), "password": PASSWORD}
    made = await run(CreateAccount(email="anna@example.org", **theirs), OPERATOR)
    account_id = UUID(made.content["account_id"])
    now = book.log.clock.now()
    own = Actor(str(account_id), Role.PATIENT, UUID(patient_id), account_id=account_id, authenticated_at=now)
    linked = LinkProvider(issuer="https://id.example.org", subject="anna-there", email="anna@example.org")
    unlink = (await run(linked, own)).content["identity"]
    await run(UnlinkProvider(identity=UUID(unlink)), own)
    key = PasskeyAdded(
        account_id=account_id,
        passkey_id=uuid4(),
        credential_id="the credential",
        public_key="the public key",
        name="Anna's blue key",
        sign_count=0,
        challenge_id=uuid4(),
        challenge_until=now,
    )
    stream = account.stream(account_id)
    version = (await book.log.load(ORGANIZATION, {stream: 0}))[stream][-1].version
    context = Context(ORGANIZATION, own.id, uuid4(), uuid4())
    await book.log.append(Save(context, {stream: version}, [NewEvent(stream, key, now, uuid4())]))
    state = (await book.desk.catch_up(ORGANIZATION, {stream: NOTHING}))[stream][1]
    began = StartSession(
        account_id=account_id,
        session_id=uuid4(),
        era=state.era,
        factors=("pwd",),
        authenticated_at=now,
        address="192.0.2.31",
        user_agent="Anna's browser",
    )
    await run(began, SIGN_IN)
    await run(EndSession(account_id=account_id, session_id=began.session_id), SIGN_IN)
    headers = {"User-Agent": "Anna's app"}
    assert (await book.get(f"/patients/{patient_id}", own, headers=headers)).status_code == 200
    origins: Origins = book.writes.state.counter.origins

    async def cause(decision: Decision) -> UUID:
        scope = {"type": "http", "client": ("192.0.2.66", 1), "headers": [(b"user-agent", b"another's")]}
        return await origins.of(scope, ORGANIZATION, SIGN_IN, decision.account_id)

    # Whoever registers with her address and whoever guesses may be others.
    await run(RegisterAccount(email="anna@example.org"), SIGN_IN, cause=cause)
    await run(CheckPassword(email="anna@example.org", password="a wrong guess"), SIGN_IN, cause=cause)
    return own


async def test_what_is_held_of_an_account_is_told_without_what_opens_it(book: Served, clinic: Clinic) -> None:
    patient_id = await a_life(book, clinic)
    own = await accounted(book, patient_id)
    answer = await book.get(f"/patients/{patient_id}/export", own)
    (told,) = answer.json()["accounts"]
    assert (told["email"], told["status"]) == ("anna@example.org", "active")
    assert [(one["name"], one["in_use"]) for one in told["passkeys"]] == [("Anna's blue key", True)]
    assert [(one["issuer"], one["subject"], one["in_use"]) for one in told["providers"]] == [
        ("https://id.example.org", "anna-there", False)
    ]
    (session,) = told["sessions"]
    assert (session["address"], session["programme"], session["app"]) == ("192.0.2.31", "Anna's browser", None)
    assert session["ended"] >= session["since"]
    assert "Anna's app" in [one["programme"] for one in answer.json()["origins"]]
    page = Page((await book.get(f"/patients/{patient_id}/export", own, params={"format": "html"})).text)
    for words in ("Anna's blue key", "anna-there", "192.0.2.31", "Anna's browser", "Anna's app"):
        assert words in page.words, words
    for text in (answer.text, page.words):
        for secret in ("the credential", "the public key", "v2$", "192.0.2.66", "another's"):
            assert secret not in text, secret


async def test_where_somebody_was_who_registered_with_a_persons_address_is_not_theirs_to_see(book: Served) -> None:
    origins: Origins = book.writes.state.counter.origins

    async def ask(command: Command, agent: bytes) -> dict[str, Any]:
        async def cause(decision: Decision) -> UUID:
            scope = {"type": "http", "client": ("192.0.2.66", 1), "headers": [(b"user-agent", agent)]}
            return await origins.of(scope, ORGANIZATION, SIGN_IN, decision.account_id)

        return dict((await book.desk.handle(command, SIGN_IN, ORGANIZATION, cause=cause)).content)

    sent = await ask(RegisterAccount(email="anna@example.org"), b"another's")
    link = FollowLink(purpose=LinkPurpose.VERIFY, token=sent["letter"]["token"], password=PASSWORD)
    account_id = UUID((await ask(link, b"Anna's own"))["account_id"])
    stream = account.stream(account_id)
    state = (await book.desk.catch_up(ORGANIZATION, {stream: NOTHING}))[stream][1]
    assert state is not None
    own = Actor(str(account_id), Role.PATIENT, state.patient_id, account_id=account_id)
    told = (await book.get(f"/patients/{state.patient_id}/export", own)).json()
    assert [one["programme"] for one in told["origins"]] == ["Anna's own"]


async def test_emergencies_and_legal_holds_are_told_and_what_is_withheld_is_said(book: Served, clinic: Clinic) -> None:
    patient_id = await a_life(book, clinic)
    doctor = Actor("dr-stranger", Role.PROVIDER, provider_id=clinic.provider)
    for reason, words in (("emergency", f"Found unconscious {NASTY}"), ("safeguarding", "The uncle is feared")):
        said = {"reason": reason, "words": words}
        assert (await book.post(f"/patients/{patient_id}/glass", doctor, said)).status_code == 201
    holds = f"/patients/{patient_id}/holds"
    held = await book.post(holds, ADMIN, {"reason": "litigation", "matter": "4 O 1/27"})
    await book.post(f"{holds}/{held.json()['hold_id']}/lift", ADMIN)
    await book.post(holds, ADMIN, {"reason": "authority", "matter": "the district's letter"})
    answer = await book.get(f"/patients/{patient_id}/export", patient_actor(UUID(patient_id)))
    told = answer.json()
    assert [(one["reason"], one["words"]) for one in told["emergencies"]] == [
        ("emergency", f"Found unconscious {NASTY}"),
        ("safeguarding", None),
    ]
    assert [(one["reason"], one["lifted"] is None) for one in told["holds"]] == [
        ("litigation", False),
        ("authority", True),
    ]
    assert told["withheld"] == list(WITHHELD)
    page = Page((await book.get(f"/patients/{patient_id}/export", ADMIN, params={"format": "html"})).text)
    assert page.reaching == []
    for words in (f"Found unconscious {NASTY}", "safeguarding", "litigation", *WITHHELD):
        assert words in page.words, words
    for text in (answer.text, page.words):
        for words in ("uncle", "4 O 1/27", "district", "dr-stranger"):
            assert words not in text, words


@pytest.mark.parametrize("form", ["json", "html"])
async def test_nobody_else_gets_it(book: Served, clinic: Clinic, form: str) -> None:
    path = f"/patients/{clinic.patient}/export"
    for who, status in (
        (patient_actor(clinic.patients[1]), 404),
        (someone(Role.PROVIDER, provider_id=clinic.provider), 403),
        # All at once is more than a desk needs (45 CFR 164.502(b)).
        (DESK, 403),
        (someone(Role.AUDITOR), 403),
        (someone(Role.ANALYST), 403),
    ):
        assert (await book.get(path, who, params={"format": form})).status_code == status
    assert (await book.get(f"/patients/{uuid4()}/export", ADMIN, params={"format": form})).status_code == 404
    assert (await book.get(path, ADMIN, organization="another", params={"format": form})).status_code == 404
    assert (await book.get(path, ADMIN, params={"format": "xml"})).status_code == 422


async def test_an_export_is_a_look(book: Served, clinic: Clinic) -> None:
    path = f"/patients/{clinic.patient}/export"
    await book.get(path, ADMIN, headers={"Purpose-Of-Use": "REQUEST"})
    (look,) = (await book.get(path, ADMIN)).json()["looks"]
    assert (look["role"], look["purpose"]) == ("admin", "REQUEST")
