"""Accounts over HTTP, as an app would use them."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

import httpx
import pyotp

from commands.loop import ACCOUNT, NOTHING
from commands.sign_in import SIGN_IN, CheckPassword
from domain.access import Actor, Role
from domain.account import Account
from domain.ports import MailLost
from tests.clinic import ADMIN, DESK, ORGANIZATION
from tests.people import OTHER_PASSWORD, PASSWORD
from tests.served import Served

ADA = "ada@example.org"


async def anybody(book: Served, path: str, body: object) -> httpx.Response:
    return await book.http.post(f"/write/accounts{path}", json=body)


async def account(book: Served, account_id: str) -> Account:
    stream = ACCOUNT.stream(UUID(account_id))
    state = (await book.desk.catch_up(ORGANIZATION, {stream: NOTHING}))[stream][1]
    assert isinstance(state, Account)
    return state


async def registered(book: Served, email: str = ADA) -> Actor:
    """Somebody who registered, followed the link, and has just signed in."""
    assert (await anybody(book, "", {"email": email})).status_code == 202
    told = await anybody(book, "/verify", {"token": book.letterbox.token(), "password": PASSWORD})
    assert told.status_code == 200, told.text
    state = await account(book, told.json()["account_id"])
    return Actor(str(state.id), state.role, state.patient_id, account_id=state.id, authenticated_at=datetime.now(UTC))


async def signs_in(book: Served, email: str = ADA, password: str = PASSWORD) -> bool:
    told = await book.desk.handle(CheckPassword(email=email, password=password), SIGN_IN, ORGANIZATION)
    return bool(told.content["outcome"] == "accepted")


async def test_a_patient_registers_and_sees_their_own_record(book: Served) -> None:
    ada = await registered(book)
    to, subject, words = book.letterbox.letters[0]
    assert (to, subject) == (ADA, "Confirm your address")
    assert "https://book.example.org/oauth/account/verify?token=" in words
    assert await signs_in(book)
    seen = await book.get(f"/patients/{ada.patient_id}/appointments", ada)
    assert seen.status_code == 200, seen.text


async def test_a_stranger_hears_the_same_whether_or_not_an_address_is_known(book: Served) -> None:
    await registered(book)
    heard = []
    for path in ("/reset/ask", ""):
        for email in (ADA, "nobody@example.org"):
            told = await anybody(book, path, {"email": email})
            headers = {name: value for name, value in told.headers.items() if name != "x-request-id"}
            heard.append((told.status_code, told.content, headers))
    assert heard[0] == heard[1] == heard[2] == heard[3]
    assert [subject for to, subject, _ in book.letterbox.letters if to == ADA] == [
        "Confirm your address",
        "Choose a new password",
        "You have an account already",
    ]
    assert [subject for to, subject, _ in book.letterbox.letters if to != ADA] == ["Confirm your address"]


async def test_a_letter_that_is_lost_changes_nothing_and_is_asked_for_again(book: Served) -> None:
    class Down:
        async def send(self, to: str, subject: str, text: str) -> None:
            raise MailLost("ConnectionRefusedError")

    post = book.writes.state.counter.post
    object.__setattr__(post, "mailer", Down())
    assert (await anybody(book, "", {"email": ADA})).status_code == 202
    object.__setattr__(post, "mailer", book.letterbox)
    await registered(book)
    assert await signs_in(book)


async def test_a_reset_by_letter(book: Served) -> None:
    await registered(book)
    await anybody(book, "/reset/ask", {"email": ADA})
    token = book.letterbox.token()
    told = await anybody(book, "/reset", {"token": token, "password": "short"})
    assert (told.status_code, told.json()["code"], told.json()["because"]) == (422, "password_too_weak", "short")
    assert (await anybody(book, "/reset", {"token": token, "password": OTHER_PASSWORD})).status_code == 200
    assert book.letterbox.letters[-1][1] == "Your password was changed"
    again = await anybody(book, "/reset", {"token": token, "password": PASSWORD})
    assert (again.status_code, again.json()["code"]) == (409, "link_ended")
    assert await signs_in(book, password=OTHER_PASSWORD)


async def test_look_alikes_are_refused(book: Served) -> None:
    for email in ("\u0430dmin@example.org", "admin@ex\u0430mple.org", "not an address", "a@localhost"):
        told = await anybody(book, "", {"email": email})
        assert (told.status_code, told.json()["code"]) == (422, "address_not_taken")
        assert email not in told.text
    assert book.letterbox.letters == []


async def test_letters_to_one_address_are_few(book: Served) -> None:
    """Nobody's mailbox is filled by whoever types its address."""
    told = [await anybody(book, "/reset/ask", {"email": ADA}) for _ in range(6)]
    assert [one.status_code for one in told] == [202] * 5 + [429]
    assert int(told[-1].headers["retry-after"]) > 60


async def test_a_change_of_password_asks_for_the_present_one(book: Served) -> None:
    ada = await registered(book)
    path = "/accounts/me/password"
    wrong = await book.post(path, ada, {"present": "not the password", "password": OTHER_PASSWORD})
    assert (wrong.status_code, wrong.json()["code"]) == (403, "password_wrong")
    right = await book.post(path, ada, {"present": PASSWORD, "password": OTHER_PASSWORD})
    assert (right.status_code, set(right.json())) == (200, {"position"})
    assert await signs_in(book, password=OTHER_PASSWORD)
    assert OTHER_PASSWORD not in right.text


async def test_an_authenticator_app_over_http(book: Served) -> None:
    ada = await registered(book)
    shown = (await book.post("/accounts/me/totp", ada)).json()
    wrong = await book.post("/accounts/me/totp/confirm", ada, {"code": "abcdef"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "code_wrong")
    told = await book.post("/accounts/me/totp/confirm", ada, {"code": pyotp.TOTP(shown["secret"]).now()})
    assert (told.status_code, len(told.json()["recovery_codes"])) == (200, 10)
    again = await book.post("/accounts/me/totp", ada)
    assert (again.status_code, again.json()["code"]) == (409, "already_enrolled")
    assert (await book.post("/accounts/me/recovery-codes", ada)).json()["recovery_codes"]
    assert (await book.delete("/accounts/me/totp", ada)).status_code == 200
    assert (await account(book, ada.id)).second_factors == ()
    # The owner hears of each change, whoever made it.
    subjects = [subject for _, subject, _ in book.letterbox.letters[1:]]
    assert subjects == ["A second factor was added", "New recovery codes", "A second factor was removed"]


async def test_what_is_shown_once_is_never_remembered(book: Served) -> None:
    ada = await registered(book)
    told = await book.post("/accounts/me/recovery-codes", ada, headers={"Idempotency-Key": "again"})
    assert (told.status_code, told.json()["code"]) == (422, "invalid")
    shown = (await book.post("/accounts/me/totp", ada)).json()["secret"]
    rows = await book.log._connections.fetch("SELECT result FROM commands")  # type: ignore[attr-defined]
    assert shown.encode() not in b"".join(bytes(result) for (result,) in rows)


async def test_a_sign_in_that_is_not_fresh_must_be_made_again(book: Served) -> None:
    ada = await registered(book)
    stale = Actor(ada.id, ada.role, ada.patient_id, account_id=ada.account_id)
    told = await book.post("/accounts/me/totp", stale)
    assert (told.status_code, told.json()["code"], told.json()["max_age"]) == (403, "step_up_required", 600)


async def test_a_token_that_an_operator_minted_has_no_account_of_its_own(book: Served) -> None:
    told = await book.post("/accounts/me/totp", ADMIN)
    assert (told.status_code, told.json()["code"]) == (403, "not_allowed")


async def test_an_administrator_invites_moves_locks_and_closes(book: Served) -> None:
    told = await book.post("/accounts/invitations", ADMIN, {"email": "grace@example.org", "role": "front_desk"})
    assert (told.status_code, set(told.json())) == (201, {"account_id", "position"})
    grace = told.json()["account_id"]
    first = book.letterbox.token()
    assert (await book.post(f"/accounts/{grace}/invitations", ADMIN)).status_code == 200
    assert (await anybody(book, "/verify", {"token": first, "password": PASSWORD})).status_code == 409
    assert (await anybody(book, "/verify", {"token": book.letterbox.token(), "password": PASSWORD})).status_code == 200
    assert (await book.post(f"/accounts/{grace}/role", ADMIN, {"role": "auditor"})).status_code == 200
    assert (await book.post(f"/accounts/{grace}/lock", ADMIN)).status_code == 200
    assert not await signs_in(book, "grace@example.org")
    assert (await book.post(f"/accounts/{grace}/unlock", ADMIN)).status_code == 200
    assert await signs_in(book, "grace@example.org")
    assert (await book.post(f"/accounts/{grace}/close", ADMIN)).status_code == 200
    assert (await book.post(f"/accounts/{grace}/lock", ADMIN)).json()["code"] == "account_not_active"
    assert (await account(book, grace)).role is Role.AUDITOR


async def test_what_administrators_do_is_not_for_others(book: Served) -> None:
    ada = await registered(book)
    for who in (ada, DESK):
        for path in ("lock", "unlock", "close"):
            told = await book.post(f"/accounts/{ada.id}/{path}", who)
            assert (told.status_code, told.json()["code"]) == (403, "not_allowed")
    unknown = await book.post(f"/accounts/{uuid4()}/lock", ADMIN)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown")
    elsewhere = await book.post(f"/accounts/{ada.id}/lock", ADMIN, organization="another-clinic")
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (404, "unknown")


async def test_the_policy_of_second_factors(book: Served) -> None:
    told = await book.put("/accounts/mfa-policy", ADMIN, {"roles": {"front_desk": "required"}})
    assert told.json()["roles"]["front_desk"] == "required"
    assert told.json()["roles"]["patient"] == "optional"
    bad = await book.put("/accounts/mfa-policy", ADMIN, {"roles": {"front_desk": "sometimes"}})
    assert bad.status_code == 422


async def test_closing_ones_own_account(book: Served) -> None:
    ada = await registered(book)
    assert (await book.delete("/accounts/me", ada)).status_code == 200
    assert not await signs_in(book)
