"""Passkeys: added to an account, answered at sign-in, and never answered twice."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from commands.loop import Desk
from commands.passkeys import AddPasskey, NewPasskey, RemovePasskey
from commands.sign_in import CheckPasskey, OfferPasskey
from domain.access import Actor
from domain.account import AlreadyEnrolled, NotEnrolled, PasskeyNotTaken
from domain.ports import FixedClock
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from tests.authenticator import Authenticator, raw, text
from tests.people import SITE, People, credentials

NOW = datetime(2026, 3, 2, 9, 0, 5, tzinfo=UTC)
HOST = "book.example.org"


@pytest.fixture
def people(log: PostgresEventLog) -> People:
    clock = FixedClock(NOW)
    return People(Desk(log, clock, TimeOrderedIds(), PublicHolidays(), credentials=credentials()), clock)


async def with_passkey(people: People, who: Actor, device: Authenticator) -> dict[str, Any]:
    offer = await people.asked(NewPasskey(), who)
    command = AddPasskey(name="my phone", response=device.create(offer["options"]), challenge=offer["challenge"])
    return await people.asked(command, who)


async def check(people: People, device: Authenticator, who: Actor | None = None) -> CheckPasskey:
    """The command that an answer of this device makes."""
    account_id = who.account_id if who is not None else None
    offer = await people.asked(OfferPasskey(account_id=account_id))
    return CheckPasskey(account_id=account_id, response=device.get(offer["options"]), challenge=offer["challenge"])


async def test_a_passkey_follows_the_password(people: People) -> None:
    ada, device = await people.patient(), Authenticator(SITE, HOST)
    told = await with_passkey(people, ada, device)
    assert len(told["recovery_codes"]) == 10
    assert (await people.sign_in())["second_factors"] == ["passkey", "recovery"]
    offer = await people.asked(OfferPasskey(account_id=ada.account_id))
    assert [one["id"] for one in offer["options"]["allowCredentials"]] == [text(device.credential_id)]
    answer = await people.asked(await check(people, device, ada))
    assert (answer["outcome"], answer["account_id"]) == ("accepted", str(ada.account_id))


async def test_a_passkey_alone_says_who_it_is_when_it_knew_its_owner(people: People) -> None:
    ada, device = await people.patient(), Authenticator(SITE, HOST)
    await with_passkey(people, ada, device)
    answer = await people.asked(await check(people, device))
    assert (answer["outcome"], answer["account_id"]) == ("accepted", str(ada.account_id))
    assert answer["user_verified"] is True
    assert answer["methods"] == ["hwk", "user", "mfa"]
    device.verifies = False
    assert (await people.asked(await check(people, device)))["outcome"] == "refused"
    behind_a_password = await people.asked(await check(people, device, ada))
    assert (behind_a_password["outcome"], behind_a_password["user_verified"]) == ("accepted", False)
    assert behind_a_password["methods"] == ["hwk", "user"]
    # One that is copied to other devices is no key of this device's (RFC 8176 §2).
    device.synced = True
    assert (await people.asked(await check(people, device, ada)))["methods"] == ["swk", "user"]


@pytest.mark.parametrize("counts", [True, False])
async def test_an_answer_is_good_once_whether_or_not_the_device_counts(people: People, counts: bool) -> None:
    """WebAuthn Level 2 §7.2 finds a repeat by the counter; synced passkeys have none, so the challenge decides."""
    ada, device = await people.patient(), Authenticator(SITE, HOST, counts=counts)
    await with_passkey(people, ada, device)
    command = await check(people, device)
    told = await asyncio.gather(*(people.asked(command) for _ in range(5)))
    assert sorted(one["outcome"] for one in told) == ["accepted"] + ["refused"] * 4
    assert "PasskeyAccepted" in await people.events(f"account/{ada.account_id}")


async def test_a_copied_key_is_found_by_its_counter(people: People) -> None:
    ada, device = await people.patient(), Authenticator(SITE, HOST)
    await with_passkey(people, ada, device)
    copy = replace(device)
    for _ in range(2):
        assert (await people.asked(await check(people, device)))["outcome"] == "accepted"
    assert (await people.asked(await check(people, copy)))["outcome"] == "refused"


async def test_a_challenge_ends_after_five_minutes(people: People) -> None:
    ada, device = await people.patient(), Authenticator(SITE, HOST)
    await with_passkey(people, ada, device)
    command = await check(people, device)
    people.later(timedelta(minutes=5))
    assert (await people.asked(command))["outcome"] == "refused"
    offer = await people.asked(NewPasskey(), replace(ada, authenticated_at=people.clock.now()))
    other = Authenticator(SITE, HOST)
    late = AddPasskey(name="late", response=other.create(offer["options"]), challenge=offer["challenge"])
    people.later(timedelta(minutes=5))
    with pytest.raises(PasskeyNotTaken):
        await people.asked(late, replace(ada, authenticated_at=people.clock.now()))


async def test_answers_made_for_another_site_or_challenge_or_key_are_refused(people: People) -> None:
    ada, device = await people.patient(), Authenticator(SITE, HOST)
    await with_passkey(people, ada, device)
    good = await check(people, device, ada)
    phished = await check(people, replace(device, origin="https://book.example.org.evil.example"), ada)
    elsewhere = await check(people, replace(device, host="evil.example"), ada)
    forged = await check(people, replace(device, key=Authenticator(SITE, HOST).key), ada)
    unknown = await check(people, replace(device, credential_id=b"unknown"), ada)
    swapped = good.model_copy(update={"challenge": (await check(people, device, ada)).challenge})
    own = good.model_copy(update={"challenge": text(bytes(48))})
    for command in (phished, elsewhere, forged, unknown, swapped, own):
        assert (await people.asked(command))["outcome"] == "refused"
    # Wrong answers keep nobody out.
    assert (await people.asked(await check(people, device, ada)))["outcome"] == "accepted"


async def test_what_is_no_answer_at_all_is_refused(people: People) -> None:
    ada, device = await people.patient(), Authenticator(SITE, HOST)
    await with_passkey(people, ada, device)
    good = await check(people, device)
    response = good.response["response"]
    broken: list[dict[str, Any]] = [
        {},
        {"response": None},
        {"response": {"userHandle": 7}},
        {"response": {"userHandle": "é"}},
        {**good.response, "type": "password"},
        {**good.response, "rawId": "AAAA"},
        {**good.response, "response": {**response, "authenticatorData": ""}},
        {**good.response, "response": {**response, "authenticatorData": text(raw(response["authenticatorData"])[:30])}},
        {**good.response, "response": {**response, "clientDataJSON": text(b"[]")}},
        {**good.response, "response": {**response, "clientDataJSON": "=?="}},
        {**good.response, "response": {**response, "signature": text(b"\x30\x00")}},
    ]
    for answer in broken:
        for account_id in (None, ada.account_id):
            command = good.model_copy(update={"response": answer, "account_id": account_id})
            assert (await people.asked(command))["outcome"] == "refused", json.dumps(answer)
    with pytest.raises(PasskeyNotTaken):
        await people.asked(AddPasskey(name="x", response={"id": "x"}, challenge=good.challenge), ada)


async def test_anothers_passkey_is_nobodys_second_factor(people: People) -> None:
    ada, grace = await people.patient(), await people.patient("grace@example.org")
    device = Authenticator(SITE, HOST)
    await with_passkey(people, grace, device)
    assert (await people.asked(await check(people, device, ada)))["outcome"] == "refused"


async def test_a_passkey_is_added_once_and_removed(people: People) -> None:
    ada, device = await people.patient(), Authenticator(SITE, HOST)
    told = await with_passkey(people, ada, device)
    with pytest.raises(AlreadyEnrolled):
        await with_passkey(people, ada, device)
    await people.asked(RemovePasskey(passkey_id=told["passkey_id"]), ada)
    assert (await people.asked(await check(people, device)))["outcome"] == "refused"
    with pytest.raises(NotEnrolled):
        await people.asked(RemovePasskey(passkey_id=told["passkey_id"]), ada)


async def test_a_challenge_for_adding_is_none_for_signing_in(people: People) -> None:
    ada, device = await people.patient(), Authenticator(SITE, HOST)
    await with_passkey(people, ada, device)
    offer = await people.asked(NewPasskey(), ada)
    answer = device.get({"challenge": offer["challenge"]})
    command = CheckPasskey(account_id=ada.account_id, response=answer, challenge=offer["challenge"])
    assert (await people.asked(command))["outcome"] == "refused"


async def test_guessed_passwords_do_not_keep_the_owner_of_a_passkey_out(people: People) -> None:
    ada, device = await people.patient(), Authenticator(SITE, HOST)
    await with_passkey(people, ada, device)
    for _ in range(6):
        await people.sign_in(password="not the password")
    assert (await people.asked(await check(people, device)))["outcome"] == "accepted"
