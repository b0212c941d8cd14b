"""The pages behind which people get an account and choose a password, as a browser sees them."""

from __future__ import annotations

import pytest

from domain.access import Actor
from tests.people import OTHER_PASSWORD, PASSWORD
from tests.signing_in import Browser, House

ADA = "ada@example.org"
REGISTER = "/oauth/account/register"
FORGOTTEN = "/oauth/account/forgotten"


async def opened(house: House, purpose: str) -> Browser:
    """Whoever opens the link of the last letter."""
    browser = house.browser()
    answer = await browser.go(f"/oauth/account/{purpose}", token=house.letterbox.token())
    assert answer.status_code == 200
    return browser


async def test_a_patient_makes_an_account_and_signs_in(house: House) -> None:
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    assert REGISTER in browser.page.text
    await browser.go(REGISTER)
    assert "mailbox" in (await browser.send(REGISTER, email=ADA)).text
    assert house.letterbox.letters[0][2].count(f"{house.url}/oauth/account/verify?token=") == 1
    reader = await opened(house, "verify")
    weak = await reader.send("/oauth/account/verify", password="qwertyqwerty")
    assert (weak.status_code, "guessed first" in weak.text) == (422, True)
    assert (await reader.send("/oauth/account/verify", password=PASSWORD)).status_code == 200
    await reader.go("/oauth/sign-in")
    assert (await reader.sign_in()).status_code == 200


async def test_opening_a_link_uses_nothing_up(house: House) -> None:
    """Mail programmes open links before people do."""
    browser = house.browser()
    await browser.go(REGISTER)
    await browser.send(REGISTER, email=ADA)
    for _ in range(3):
        await opened(house, "verify")
    assert (await (await opened(house, "verify")).send("/oauth/account/verify", password=PASSWORD)).status_code == 200
    ended = await (await opened(house, "verify")).send("/oauth/account/verify", password=OTHER_PASSWORD)
    assert (ended.status_code, "This link has ended" in ended.text) == (409, True)


async def test_a_forgotten_password(house: House, ada: Actor) -> None:
    heard = []
    for email in (ADA, "nobody@example.org"):
        browser = house.browser()
        await browser.go(FORGOTTEN)
        heard.append((await browser.send(FORGOTTEN, email=email)).text)
    assert heard[0] == heard[1]
    assert [to for to, _, _ in house.letterbox.letters] == [ADA]
    reader = await opened(house, "reset")
    assert (await reader.send("/oauth/account/reset", password=OTHER_PASSWORD)).status_code == 200
    assert house.letterbox.letters[-1][1] == "Your password was changed"
    await reader.go("/oauth/sign-in")
    assert (await reader.sign_in(password=PASSWORD)).status_code == 401
    assert (await reader.sign_in(password=OTHER_PASSWORD)).status_code == 200


async def test_a_form_from_elsewhere_is_refused(house: House) -> None:
    for path in (REGISTER, FORGOTTEN, "/oauth/account/verify", "/oauth/account/reset"):
        answer = await house.browser().http.post(path, data={"email": ADA, "token": "x", "password": PASSWORD})
        assert answer.status_code == 403
    assert house.letterbox.letters == []


@pytest.mark.parametrize("email", ["\u0430dmin@example.org", "no address", "x" * 2000])
async def test_what_is_no_address_is_said_without_repeating_it(house: House, email: str) -> None:
    browser = house.browser()
    await browser.go(REGISTER)
    answer = await browser.send(REGISTER, email=email)
    assert answer.status_code == 422
    assert email not in answer.text


async def test_a_token_that_is_none_is_shown_as_words_alone(house: House) -> None:
    browser = house.browser()
    answer = await browser.go("/oauth/account/reset", token='"><script>alert(1)</script>')
    assert "<script>alert" not in answer.text
    assert (await browser.send("/oauth/account/reset", password=PASSWORD)).status_code == 409
    assert (await browser.go("/oauth/account/elsewhere")).status_code == 422
