"""The pages: how people sign in, agree, and see where they are signed in."""

from __future__ import annotations

import asyncio
import html
import re
from datetime import timedelta

import httpx
import jwt
import pyotp
import pytest

from commands.accounts import LockAccount
from domain.access import Actor, Role
from tests.people import OPERATOR, PASSWORD
from tests.signing_in import BACK, App, House, sent_back

CSRF = re.compile(r'name="csrf" value="([^"]+)"')


async def test_wrong_password_unknown_address_and_locked_account_hear_the_same(house: House, ada: Actor) -> None:
    await house.people.staff(Role.FRONT_DESK)
    heard = []
    for email, password in (("ada@example.org", "wrong"), ("nobody@example.org", "wrong"), ("no address", "x")):
        browser = house.browser()
        await browser.go("/oauth/sign-in")
        answer = await browser.sign_in(email, password)
        assert answer.status_code == 401
        assert email not in answer.text
        heard.append(_words(answer))
    assert ada.account_id is not None
    await house.people.asked(LockAccount(account_id=ada.account_id), OPERATOR)
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    heard.append(_words(await browser.sign_in("ada@example.org", PASSWORD)))
    assert len(set(heard)) == 1


def _words(answer: httpx.Response) -> str:
    found = re.search(r'role="alert">(.*?)</p>', answer.text, re.DOTALL)
    assert found is not None
    return found[1].strip()


async def test_after_several_wrong_guesses_the_page_says_when_to_try_again(house: House, ada: Actor) -> None:
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    for _ in range(6):
        answer = await browser.sign_in(password="wrong")
    assert "retry-after" in answer.headers
    assert "try again in" in answer.text
    assert (await browser.sign_in()).status_code == 401
    house.people.later(timedelta(hours=2))
    assert (await browser.sign_in()).status_code == 200


async def test_whoever_is_signed_in_goes_straight_to_the_next_app(house: House, app: App, ada: Actor) -> None:
    browser = house.browser()
    await browser.go("/oauth/authorize", **house.request(app))
    sent_back(await browser.sign_in())
    other = await house.app()
    assert sent_back(await browser.go("/oauth/authorize", **house.request(other)))["code"]
    # What came of it says when they signed in, not when they came by.
    answer = await browser.go("/oauth/authorize", **house.request(other, prompt="none"))
    assert sent_back(answer)["code"]


async def test_an_app_may_ask_that_nobody_is_bothered(house: House, app: App) -> None:
    answer = await house.browser().go("/oauth/authorize", **house.request(app, prompt="none", state="s"))
    told = sent_back(answer)
    assert (told["error"], told["state"], told["iss"]) == ("login_required", "s", house.url)


@pytest.mark.parametrize(
    "wish", [{"prompt": "login"}, {"max_age": "60"}, {"max_age": "0"}, {"prompt": "select_account"}]
)
async def test_an_app_may_ask_for_a_fresh_sign_in(house: House, app: App, wish: dict[str, str]) -> None:
    browser = house.browser()
    first = (await house.redeem(app, await house.code(app, browser))).json()
    house.people.later(timedelta(minutes=2))
    answer = await browser.go("/oauth/authorize", **house.request(app, **wish))
    assert answer.status_code == 200
    assert 'name="password"' in answer.text
    told = sent_back(await browser.sign_in())
    second = (await house.redeem(app, told["code"])).json()
    times = [jwt.decode(each["id_token"], options={"verify_signature": False})["auth_time"] for each in (first, second)]
    assert times[1] - times[0] >= 119


async def test_a_second_factor_is_asked_for_and_told_to_the_app(house: House, app: App, ada: Actor) -> None:
    authenticator = await house.people.with_totp(ada)
    house.people.later(timedelta(minutes=1))
    browser = house.browser()
    await browser.go("/oauth/authorize", **house.request(app))
    answer = await browser.sign_in()
    assert answer.status_code == 200
    assert 'name="code"' in answer.text
    # Half signed in is not signed in.
    assert (await browser.http.get("/oauth/sessions")).status_code == 303
    assert (await browser.send("/oauth/second-factor", code="000000")).status_code == 401
    code = house.people.code(authenticator)
    told = sent_back(await browser.send("/oauth/second-factor", code=code))
    tokens = (await house.redeem(app, told["code"])).json()
    assert jwt.decode(tokens["id_token"], options={"verify_signature": False})["amr"] == ["pwd", "otp", "mfa"]
    # The code is used up, for another browser too.
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    await browser.sign_in()
    assert (await browser.send("/oauth/second-factor", code=code)).status_code == 401


async def test_what_was_proven_for_one_account_is_nothing_for_another_step(house: House, app: App, ada: Actor) -> None:
    await house.people.with_totp(ada)
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    await browser.sign_in()
    half = re.search(r'name="half" value="([^"]+)"', browser.page.text)
    assert half is not None
    csrf = CSRF.search(browser.page.text)
    assert csrf is not None
    house.people.later(timedelta(minutes=11))
    form = {"csrf": csrf[1], "half": half[1], "code": "000000", "flow": ""}
    answer = await browser.http.post("/oauth/second-factor", data=form)
    assert "This took too long" in answer.text
    for forged in ("", half[1][:-4] + "AAAA", csrf[1]):
        answer = await browser.http.post("/oauth/second-factor", data=form | {"half": forged})
        assert (answer.status_code, 'name="password"' in answer.text) == (401, True)


async def test_nobody_sets_up_another_factor_in_place_of_the_one_that_is_asked_for(house: House, ada: Actor) -> None:
    await house.people.with_totp(ada)
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    page = (await browser.sign_in()).text
    half, csrf = re.search(r'name="half" value="([^"]+)"', page), CSRF.search(page)
    assert half is not None
    assert csrf is not None
    form = {"csrf": csrf[1], "half": half[1], "code": "000000", "flow": ""}
    answer = await browser.http.post("/oauth/enrol", data=form)
    assert (answer.status_code, 'name="password"' in answer.text) == (401, True)
    assert 'class="secret"' not in answer.text

    # Nor where it was set up elsewhere while the page stood open.
    grace = await house.people.staff(Role.ADMIN, "grace@example.org")
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    assert 'class="secret"' in (await browser.sign_in("grace@example.org")).text
    await house.people.with_totp(grace)
    answer = await browser.send("/oauth/enrol", code="000000")
    assert (answer.status_code, 'class="secret"' in answer.text) == (401, False)


async def test_whose_role_needs_a_second_factor_sets_one_up_first(house: House, app: App) -> None:
    await house.people.staff(Role.ADMIN, "grace@example.org")
    browser = house.browser()
    await browser.go("/oauth/authorize", **house.request(app))
    answer = await browser.sign_in("grace@example.org")
    assert answer.status_code == 200
    found = re.search(r'class="secret">([A-Z2-7]+)<', answer.text)
    assert found is not None
    assert 'src="data:image/svg+xml' in answer.text
    answer = await browser.send("/oauth/enrol", code="000000")
    assert answer.status_code == 422
    found = re.search(r'class="secret">([A-Z2-7]+)<', answer.text)
    assert found is not None
    answer = await browser.send("/oauth/enrol", code=house.people.code(pyotp.TOTP(found[1])))
    codes = re.findall(r"<li><code>([a-z0-9-]+)</code>", answer.text)
    assert len(codes) == 10
    there = re.search(r'href="(/oauth/continue[^"]+)"', answer.text)
    assert there is not None
    told = sent_back(await browser.go(html.unescape(there[1])))
    assert (await house.redeem(app, told["code"])).status_code == 200
    # Next time a recovery code lets them in, once.
    for status in (303, 401):
        browser = house.browser()
        await browser.go("/oauth/authorize", **house.request(app))
        await browser.sign_in("grace@example.org")
        fields = {"recovery": codes[0]}
        answer = await browser.send("/oauth/second-factor", **fields)
        assert answer.status_code == status
    while len(house.letterbox.letters) < 2:  # noqa: ASYNC110 - sent after the answer, to nobody who could tell
        await asyncio.sleep(0.01)
    assert [letter[:2] for letter in house.letterbox.letters] == [
        ("grace@example.org", "A second factor was added"),
        ("grace@example.org", "A recovery code was used"),
    ]


async def test_an_app_of_others_is_let_in_only_by_a_yes(house: House, ada: Actor) -> None:
    app = await house.app(trusted=False, name="<b>Diary & Co</b>")
    browser = house.browser()
    await browser.go("/oauth/authorize", **house.request(app, state="s"))
    answer = await browser.sign_in()
    assert "&lt;b&gt;Diary &amp; Co&lt;/b&gt;" in answer.text
    assert "<b>" not in answer.text
    assert "see and search your Appointment records" in answer.text
    assert "form-action 'self' https://app.example.org;" in answer.headers["content-security-policy"]
    told = sent_back(await browser.send("/oauth/consent", decision="deny"))
    assert (told["error"], told["state"], told["iss"]) == ("access_denied", "s", house.url)
    answer = await browser.go("/oauth/authorize", **house.request(app))
    assert sent_back(await browser.send("/oauth/consent", decision="allow"))["code"]
    answer = await browser.go("/oauth/authorize", **house.request(app, prompt="none"))
    assert sent_back(answer)["error"] == "consent_required"


@pytest.mark.parametrize(
    "path",
    [
        "/oauth/sign-in",
        "/oauth/second-factor",
        "/oauth/passkey",
        "/oauth/enrol",
        "/oauth/consent",
        "/oauth/outside/there",
        "/oauth/outside/there/link",
        "/oauth/outside/there/unlink",
        "/oauth/sign-out",
        "/oauth/sessions/end",
    ],
)
async def test_a_form_from_elsewhere_is_refused(house: House, app: App, path: str) -> None:
    browser = house.browser()
    await browser.go("/oauth/authorize", **house.request(app))
    token = CSRF.search(browser.page.text)
    assert token is not None
    form = {"email": "ada@example.org", "password": PASSWORD, "csrf": token[1]}
    stranger = house.browser()
    await stranger.go("/oauth/sign-in")
    for http, data, headers in (
        (browser.http, form | {"csrf": ""}, {}),
        (stranger.http, form, {}),
        (browser.http, form, {"Origin": "https://evil.example"}),
        (browser.http, form, {"Sec-Fetch-Site": "cross-site"}),
    ):
        answer = await http.post(path, data=data, headers=headers)
        assert (answer.status_code, "was not sent from a page of ours" in answer.text) == (403, True)
    answer = await browser.http.post(path, data={}, headers={"Accept": "application/json"})
    assert answer.json()["code"] == "cross_site"


async def test_pages_run_nothing_frame_nowhere_and_tell_nobody_where_they_are(house: House, app: App) -> None:
    browser = house.browser()
    answer = await browser.go("/oauth/authorize", **house.request(app))
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert not re.search(r"<script(?![^>]* src=)|\son\w+=|\sstyle=", answer.text)
    for asset, kind in (("style.css", "text/css"), ("passkey.js", "javascript")):
        answer = await browser.http.get(f"/oauth/assets/{asset}")
        assert (answer.status_code, kind in answer.headers["content-type"]) == (200, True)
    for asset in ("base.html", "__init__.py", "..%2fapp.py", "nothing"):
        assert (await browser.http.get(f"/oauth/assets/{asset}")).status_code == 404
    cookies = [*(await house.browser().go("/oauth/sign-in")).headers.get_list("set-cookie")]
    assert all("HttpOnly" in cookie and "SameSite=lax" in cookie for cookie in cookies)


async def test_a_flow_that_is_forged_or_too_old_leads_nowhere(house: House, app: App) -> None:
    browser = house.browser()
    for flow in ("", "x", "A" * 300):
        assert (await browser.go("/oauth/continue", flow=flow)).status_code == 400
    await browser.go("/oauth/authorize", **house.request(app))
    house.people.later(timedelta(minutes=31))
    answer = await browser.sign_in()
    # Signed in, but the app has to ask again.
    assert answer.status_code == 200
    assert "Where you are signed in" in answer.text
    too_much = house.request(app, nonce="n" * 3000)
    assert (await browser.go("/oauth/authorize", **too_much)).status_code == 400


async def test_people_see_where_they_are_signed_in_and_end_it(house: House, app: App, ada: Actor) -> None:
    told = await house.tokens(app, here := house.browser())
    elsewhere = house.browser()
    elsewhere.http.headers["User-Agent"] = "Another <browser>"
    await elsewhere.go("/oauth/sign-in")
    await elsewhere.sign_in()
    answer = await here.go("/oauth/sessions")
    assert answer.text.count("<li>") == 3
    assert "Another &lt;browser&gt;" in answer.text
    assert "127.0.0.1" in answer.text
    assert "An app" in answer.text
    answer = await here.send("/oauth/sessions/end", session="")
    assert answer.text.count("<li>") == 1
    assert (await elsewhere.http.get("/oauth/sessions")).headers["location"] == "/oauth/sign-in"
    assert (await house.refresh(app, told["refresh_token"])).status_code == 400


async def test_nobody_ends_anothers_session(house: House, app: App, ada: Actor) -> None:
    told = await house.tokens(app)
    session = jwt.decode(told["id_token"], options={"verify_signature": False})["sid"]
    await house.people.staff(Role.FRONT_DESK)
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    await browser.sign_in("grace@example.org")
    answer = await browser.send("/oauth/sessions/end", session=session)
    assert answer.status_code == 404
    await browser.go("/oauth/sessions")
    assert (await browser.send("/oauth/sessions/end", session="x")).status_code == 400
    assert (await house.refresh(app, told["refresh_token"])).status_code == 200


async def test_an_app_signs_people_out_and_gets_them_back_at_its_own_address(house: House, app: App) -> None:
    browser = house.browser()
    told = await house.tokens(app, browser)
    gone = "https://app.example.org/gone"
    for there in ("https://evil.example", gone + "/", BACK, "//evil.example", None):
        answer = await browser.http.get("/oauth/end-session", params={"post_logout_redirect_uri": there or gone})
        # Without a word from the app that it is its own person, they are asked, and sent nowhere.
        assert (answer.status_code, "Sign out?" in answer.text) == (200, True)
    assert (await browser.http.get("/oauth/sessions")).status_code == 200
    hint = {"id_token_hint": told["id_token"], "state": "bye"}
    answer = await browser.http.get(
        "/oauth/end-session", params=hint | {"post_logout_redirect_uri": "https://evil.example/gone"}
    )
    assert (answer.status_code, "location" in answer.headers) == (200, False)
    told = await house.tokens(app, browser)
    hint = {"id_token_hint": told["id_token"], "state": "bye"}
    answer = await browser.http.get("/oauth/end-session", params=hint | {"post_logout_redirect_uri": gone})
    assert sent_back(answer, gone) == {"state": "bye"}
    assert (await browser.http.get("/oauth/sessions")).status_code == 303
    assert (await house.refresh(app, told["refresh_token"])).status_code == 400
    for forged in ("x", told["id_token"][:-4] + "AAAA", told["access_token"]):
        answer = await browser.http.get("/oauth/end-session", params={"id_token_hint": forged})
        assert answer.status_code == 400


async def test_signing_out_ends_what_apps_hold_while_somebody_is_there_only(house: House, ada: Actor) -> None:
    app = await house.app(scopes=["openid", "online_access", "offline_access"])
    browser = house.browser()
    present = await house.tokens(app, browser, scope="openid online_access")
    offline = await house.tokens(app, browser, scope="openid offline_access")
    await browser.go("/oauth/sessions")
    assert "You are signed out" in (await browser.send("/oauth/sign-out")).text
    assert (await house.refresh(app, present["refresh_token"])).status_code == 400
    assert (await house.refresh(app, offline["refresh_token"])).status_code == 200
