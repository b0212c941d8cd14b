"""What somebody sees of an account: their own whole, an administrator of anybody's what they act on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pyotp

from commands.accounts import CreateAccount
from domain.access import Role
from tests.clinic import ADMIN, DESK, ORGANIZATION, SYSTEM
from tests.people import PASSWORD
from tests.served import Served, someone


async def test_ones_own_account_is_shown_whole_and_to_administrators_without_words(book: Served) -> None:
    made = CreateAccount(email="Grace@example.org", role=Role.FRONT_DESK, password=PASSWORD)
    answer = await book.desk.handle(made, SYSTEM, ORGANIZATION)
    account_id = UUID(answer.content["account_id"])
    grace = replace(someone(Role.FRONT_DESK), account_id=account_id, authenticated_at=datetime.now(UTC))
    secret = (await book.post("/accounts/me/totp", grace)).json()["secret"]
    confirmed = await book.post("/accounts/me/totp/confirm", grace, {"code": pyotp.TOTP(secret).now()})
    assert confirmed.status_code == 200, confirmed.text

    own = await book.get(f"/accounts/{account_id}", grace)
    assert own.status_code == 200, own.text
    assert own.json() == {
        "account_id": str(account_id),
        "role": "front_desk",
        "account_status": "active",
        "patient_id": None,
        "provider_id": None,
        "email": "Grace@example.org",
        "second_factors": ["totp", "recovery"],
        "passkeys": [],
        "recovery_codes_left": 10,
    }
    seen = await book.get(f"/accounts/{account_id}", ADMIN)
    assert seen.json() == {**own.json(), "email": None}
    assert secret not in own.text
    for who in (DESK, replace(grace, account_id=uuid4())):
        assert (await book.get(f"/accounts/{account_id}", who)).status_code == 404
    assert (await book.get(f"/accounts/{account_id}", ADMIN, organization="another-clinic")).status_code == 404
