"""Where somebody signs in from is theirs once it is known who they are, and goes with them; a stranger's stays one."""

from __future__ import annotations

import pytest

from domain.access import Actor
from domain.denial import strangers
from domain.origin import OriginSeen
from domain.ports import Recorded
from tests.people import OTHER_PASSWORD, PASSWORD
from tests.signing_in import App, House, sent_back


async def told(house: House) -> list[Recorded]:
    return list(await house.log.read(0, 5000))


async def whose(house: House, name: str) -> set[str | None]:
    """With whose key the origins are sealed that events of this name came from."""
    rows = await told(house)
    seen = {one.event.origin_id: one.event.person for one in rows if isinstance(one.event, OriginSeen)}
    return {
        seen.get(one.causation_id) if one.causation_id else None
        for one in rows
        if one.event.NAME.partition(".")[0] == name
    }


async def test_a_sign_in_through_an_app_leaves_no_stranger(house: House, ada: Actor, app: App) -> None:
    browser = house.browser()
    await browser.go(house.authorize, **house.request(app))
    code = sent_back(await browser.sign_in())["code"]
    tokens = (await house.redeem(app, code)).json()
    assert (await house.refresh(app, tokens["refresh_token"])).status_code == 200
    for name in ("PasswordAccepted", "SessionStarted", "SessionRefreshed"):
        assert await whose(house, name) == {str(ada.account_id)}, name
    await browser.go(f"{house.url}/oauth/sessions")
    await browser.send("/oauth/sign-out")
    assert await whose(house, "SessionEnded") == {str(ada.account_id)}
    people = {one.event.person for one in await told(house) if isinstance(one.event, OriginSeen)}
    assert people == {str(ada.account_id)}


async def test_a_second_factor_that_fails_is_of_the_account_whose_password_was_right(house: House, ada: Actor) -> None:
    await house.people.with_totp(ada)
    browser = house.browser()
    await browser.go(f"{house.url}/oauth/sign-in")
    await browser.sign_in()
    answer = await browser.send("/oauth/second-factor", code="000000")
    assert answer.status_code == 401
    assert await whose(house, "SignInFailed") == {str(ada.account_id)}
    assert house.denied_of[-1] == ada.account_id, "the audit of refusals hears whose it was too"


async def test_a_guess_is_a_strangers_whether_or_not_the_address_is_known(house: House, ada: Actor) -> None:
    stranger = strangers(house.clock.now())
    for email in ("ada@example.org", "nobody@example.org"):
        browser = house.browser()
        await browser.go(f"{house.url}/oauth/sign-in")
        assert (await browser.sign_in(email, OTHER_PASSWORD)).status_code == 401
    assert await whose(house, "SignInFailed") == {stranger}
    assert await whose(house, "UnknownAddressTried") == {stranger}
    assert house.denied_of[-1] is None


async def test_registering_and_following_a_link_are_of_the_account_and_asking_for_one_is_not(house: House) -> None:
    browser = house.browser()
    await browser.go(f"{house.url}/oauth/account/register")
    await browser.send("/oauth/account/register", email="eve@example.org")
    await browser.go(f"{house.url}/oauth/account/verify", token=house.letterbox.token())
    await browser.send("/oauth/account/verify", password=PASSWORD)
    (account,) = [one.event.account_id for one in await told(house) if one.event.NAME == "EmailVerified.v1"]  # type: ignore[attr-defined]
    assert await whose(house, "AccountRegistered") == await whose(house, "EmailVerified") == {str(account)}
    # Again with the same address: the same work as for one that is new, and nobody's but the account's.
    await browser.go(f"{house.url}/oauth/account/register")
    await browser.send("/oauth/account/register", email="eve@example.org")
    assert await whose(house, "AddressTakenAgain") == {str(account)}
    await browser.go(f"{house.url}/oauth/account/forgotten")
    await browser.send("/oauth/account/forgotten", email="eve@example.org")
    assert await whose(house, "LinkIssued") == {str(account), strangers(house.clock.now())}


@pytest.mark.parametrize("path", ["/oauth/sign-in", "/oauth/account/register"])
async def test_whoever_only_looks_at_a_page_is_not_written_down(house: House, app: App, path: str) -> None:
    browser = house.browser()
    await browser.go(house.authorize, **house.request(app))
    await browser.go(f"{house.url}{path}")
    assert not [one for one in await told(house) if isinstance(one.event, OriginSeen)]
