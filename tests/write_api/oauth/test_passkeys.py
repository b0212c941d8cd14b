"""A passkey on the pages: by itself, or after the password; what it answered is never answered again."""

from __future__ import annotations

import html
import json
import re

import jwt
import pytest

from commands.passkeys import AddPasskey, NewPasskey
from domain.access import Actor
from tests.authenticator import Authenticator
from tests.people import SITE
from tests.signing_in import App, Browser, House, sent_back

_CHALLENGE = re.compile(r'name="challenge" value="([^"]+)"')
_OPTIONS = re.compile(r'data-options="([^"]+)"')


@pytest.fixture
async def device(house: House, ada: Actor) -> Authenticator:
    """Ada's, with a passkey for her account."""
    device = Authenticator(SITE, SITE.removeprefix("https://"))
    offered = await house.people.asked(NewPasskey(), ada)
    made = device.create(offered["options"])
    await house.people.asked(AddPasskey(response=made, challenge=offered["challenge"], name="Key"), ada)
    return device


def answer_of(device: Authenticator, browser: Browser) -> str:
    """What our script puts into the form."""
    found = _OPTIONS.search(browser.page.text)
    assert found is not None
    return json.dumps(device.get(json.loads(html.unescape(found[1]))))


async def test_a_passkey_signs_in_by_itself(house: House, app: App, device: Authenticator, ada: Actor) -> None:
    browser = house.browser()
    await browser.go("/oauth/authorize", **house.request(app))
    shown = answer_of(device, browser)
    verifier = house.verifiers[app.id]
    stranger = house.browser()
    await stranger.go("/oauth/authorize", **house.request(app))
    challenge = _CHALLENGE.search(browser.page.text)
    assert challenge is not None
    code = sent_back(await browser.send("/oauth/passkey", passkey=shown))["code"]
    house.verifiers[app.id] = verifier
    tokens = (await house.redeem(app, code)).json()
    # Two factors in one: the key, and what the device asked its owner for (RFC 8176).
    for token in (tokens["id_token"], tokens["access_token"]):
        assert set(jwt.decode(token, options={"verify_signature": False})["amr"]) == {"hwk", "user", "mfa"}
    # Whoever overheard it comes too late, with its own challenge too.
    answer = await stranger.send("/oauth/passkey", passkey=shown, challenge=challenge[1])
    assert answer.status_code == 401


async def test_a_passkey_after_the_password_is_told_to_the_app(
    house: House, app: App, device: Authenticator, ada: Actor
) -> None:
    browser = house.browser()
    await browser.go("/oauth/authorize", **house.request(app))
    await browser.sign_in()
    told = sent_back(await browser.send("/oauth/second-factor", passkey=answer_of(device, browser)))
    tokens = (await house.redeem(app, told["code"])).json()
    claims = jwt.decode(tokens["id_token"], options={"verify_signature": False})
    assert (claims["sub"], claims["amr"]) == (str(ada.account_id), ["pwd", "hwk", "user", "mfa"])


@pytest.mark.parametrize("shown", ["", "x", "[]", "{}", '{"id": 7}', "[" * 900, '{"id": "é", "response": {}}'])
async def test_what_is_no_passkey_is_refused(house: House, device: Authenticator, shown: str) -> None:
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    assert (await browser.send("/oauth/passkey", passkey=shown)).status_code == 401
    await browser.sign_in()
    assert (await browser.send("/oauth/second-factor", passkey=shown)).status_code == 401
