"""A code: given after a sign-in, to the app that asked, for one use within a minute."""

from __future__ import annotations

import secrets
from datetime import timedelta
from urllib.parse import urlsplit

import jwt
import pytest
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from domain.access import Actor, Role
from tests.signing_in import BACK, App, House, sent_back


def error_of(answer: object) -> str:
    return answer.json()["error"]  # type: ignore[attr-defined, no-any-return]


async def test_an_app_gets_tokens_that_say_who_signed_in(house: House, app: App, ada: Actor) -> None:
    told = await house.tokens(app, nonce="n-1")
    assert told["token_type"] == "Bearer"
    assert told["patient"] == str(ada.patient_id)
    assert "patient/Appointment.rs" in told["scope"].split()
    claims = jwt.decode(
        told["id_token"], house.keys.newest().public, algorithms=["EdDSA"], audience=app.id, issuer=house.url
    )
    assert (claims["sub"], claims["nonce"], claims["amr"]) == (str(ada.account_id), "n-1", ["pwd"])
    assert claims["fhirUser"].endswith(f"/Patient/{ada.patient_id}")
    caller = house.bearers().check(f"Bearer {told['access_token']}")
    assert (caller.actor.account_id, caller.actor.patient_id) == (ada.account_id, ada.patient_id)
    assert caller.actor.role is Role.PATIENT
    assert caller.actor.client_id == app.id
    assert str(caller.actor.session_id) == claims["sid"]
    assert caller.actor.factors == {"pwd"}


async def test_the_answer_names_its_issuer_and_gives_the_state_back(house: House, app: App) -> None:
    browser = house.browser()
    await browser.go("/oauth/authorize", **house.request(app, state="from me & back"))
    told = sent_back(await browser.sign_in())
    assert (told["state"], told["iss"]) == ("from me & back", house.url)


async def test_a_code_is_good_once_and_its_second_use_ends_what_came_of_the_first(house: House, app: App) -> None:
    code = await house.code(app)
    first = (await house.redeem(app, code)).json()
    assert house.bearers().check(f"Bearer {first['access_token']}")
    assert error_of(await house.redeem(app, code)) == "invalid_grant"
    assert error_of(await house.refresh(app, first["refresh_token"])) == "invalid_grant"
    assert "SessionEnded" in await house.events("session/")
    assert error_of(await house.redeem(app, code)) == "invalid_grant"


async def test_of_two_who_redeem_one_code_at_the_same_time_one_is_refused(house: House, app: App) -> None:
    code = await house.code(app)
    answers = await house.at_once(*(house.redeem(app, code) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers).count(200) <= 1
    assert {error_of(answer) for answer in answers if answer.status_code != 200} == {"invalid_grant"}
    for answer in answers:
        if answer.status_code == 200:
            assert error_of(await house.refresh(app, answer.json()["refresh_token"])) == "invalid_grant"


async def test_a_code_is_good_for_a_minute(house: House, app: App) -> None:
    code = await house.code(app)
    house.people.later(timedelta(seconds=61))
    assert error_of(await house.redeem(app, code)) == "invalid_grant"


async def test_a_code_belongs_to_its_app_its_address_and_its_verifier(house: House, app: App) -> None:
    other = await house.app()
    code = await house.code(app)
    house.verifiers[other.id] = house.verifiers[app.id]
    assert error_of(await house.redeem(other, code)) == "invalid_grant"
    asked = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK}
    right = {"code_verifier": house.verifiers[app.id]}
    for wrong, error in (
        ({"code_verifier": secrets.token_urlsafe(48)}, "invalid_grant"),
        ({"code_verifier": "short"}, "invalid_request"),
        ({}, "invalid_request"),
        (right | {"redirect_uri": BACK + "/"}, "invalid_grant"),
        (right | {"redirect_uri": None}, "invalid_grant"),
        (right | {"code": code[:-4] + "AAAA"}, "invalid_grant"),
        (right | {"code": None}, "invalid_request"),
    ):
        assert error_of(await house.ask(app, "/oauth/token", **(asked | wrong))) == error, wrong
    # None of that used it up.
    assert (await house.redeem(app, code)).status_code == 200


@pytest.mark.parametrize(
    "wish",
    [
        {"code_challenge": None, "code_challenge_method": None},
        {"code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge": None},
        {"code_challenge": "tooshort"},
        {"code_challenge": create_s256_code_challenge("x") + "\n"},
        {"scope": "system/*.cruds"},
        {"scope": "everything"},
        {"response_type": "token"},
        {"response_type": "code id_token"},
        {"resource": "https://elsewhere.example/read"},
    ],
    ids=str,
)
async def test_a_request_that_is_not_as_it_should_be_goes_back_as_an_error(
    house: House, app: App, wish: dict[str, str | None]
) -> None:
    answer = await house.browser().go("/oauth/authorize", **house.request(app, state="mine", **wish))
    told = sent_back(answer)
    assert told["error"] in {
        "invalid_request",
        "invalid_scope",
        "unsupported_response_type",
        "invalid_target",
    }
    assert "code" not in told
    assert told["state"] == "mine"
    assert told["iss"] == house.url


@pytest.mark.parametrize(
    "uri",
    [
        None,
        "",
        "https://evil.example/back",
        BACK + "/",
        BACK + "/deeper",
        BACK + "?next=https://evil.example",
        "https://app.example.org:8443/back",
        "http://app.example.org/back",
        "https://app.example.org/back#x",
        "https://app.example.org@evil.example/back",
        "https://app.example.org\\@evil.example/back",
        'https://app.example.org/back"',
        "https://app.exämple.org/back",
        "//app.example.org/back",
        "javascript:alert(1)",
    ],
)
async def test_nobody_is_sent_to_an_address_that_is_not_the_apps(house: House, app: App, uri: str | None) -> None:
    """RFC 6749 §4.1.2.1, RFC 9700 §4.1."""
    browser = house.browser()
    for more in ({}, {"response_type": "token"}, {"scope": "everything"}, {"prompt": "none"}):
        answer = await browser.go("/oauth/authorize", **house.request(app, redirect_uri=uri, **more))
        assert answer.status_code == 400
        assert "location" not in answer.headers
        if uri:
            assert uri not in answer.text


async def test_an_unknown_app_gets_nothing(house: House, app: App) -> None:
    for client_id in (None, "", "nobody", "019a0000-0000-7000-8000-000000000000", app.id.upper(), "\x00", "ä"):
        answer = await house.browser().go("/oauth/authorize", **house.request(app, client_id=client_id))
        assert answer.status_code == 400, client_id


async def test_a_parameter_that_comes_twice_is_refused_and_an_unknown_one_ignored(house: House, app: App) -> None:
    asked = house.request(app)
    browser = house.browser()
    answer = await browser.http.get("/oauth/authorize", params=[*asked.items(), ("scope", "openid")])
    assert answer.status_code == 400
    answer = await browser.go("/oauth/authorize", **asked, surprise="yes")
    assert answer.status_code == 200
    form = [("grant_type", "refresh_token"), ("grant_type", "authorization_code"), ("client_id", app.id)]
    assert (
        error_of(
            await browser.http.post(
                "/oauth/token",
                content="&".join(f"{a}={b}" for a, b in form),
                headers={"Content-Type": "application/x-www-form-urlencoded"},
            )
        )
        == "invalid_request"
    )


async def test_an_app_on_the_own_machine_may_take_any_port(house: House, ada: Actor) -> None:
    native = await house.app(kind="public", redirect_uris=["http://127.0.0.1/back"], post_logout_redirect_uris=[])
    there = App(native.id, None, "http://127.0.0.1:49152/back")
    browser = house.browser()
    await browser.go("/oauth/authorize", **house.request(there))
    code = sent_back(await browser.sign_in(), there.back)["code"]
    told = await house.redeem(there, code)
    assert told.status_code == 200
    assert "refresh_token" in told.json()


async def test_a_scope_reaches_as_far_as_the_app_and_the_person_do(house: House, ada: Actor) -> None:
    app = await house.app(scopes=["openid", "user/Appointment.rs", "patient/*.rs", "launch/patient"])
    told = await house.tokens(app, scope="openid user/*.cruds patient/Appointment.cruds offline_access launch/patient")
    assert told["scope"] == "openid user/Appointment.rs patient/Appointment.rs launch/patient"
    # Without a word about lasting longer there is nothing to refresh with.
    assert "refresh_token" not in told
    await house.people.staff(Role.FRONT_DESK)
    browser = house.browser()
    await browser.go("/oauth/authorize", **house.request(app, scope="openid user/*.rs patient/*.rs launch/patient"))
    code = sent_back(await browser.sign_in("grace@example.org"))["code"]
    told = (await house.redeem(app, code)).json()
    assert told["scope"] == "openid user/Appointment.rs"
    assert "patient" not in told


async def test_a_token_is_for_the_api_that_it_was_asked_for(house: House, app: App) -> None:
    told = await house.tokens(app, resource=f"{house.url}/read")
    assert jwt.decode(told["access_token"], options={"verify_signature": False})["aud"] == ["daybook-read"]
    both = await house.tokens(app)
    assert len(jwt.decode(both["access_token"], options={"verify_signature": False})["aud"]) == 2
    # Nor does a refresh widen it.
    answer = await house.refresh(app, told["refresh_token"], resource=f"{house.url}/write")
    assert error_of(answer) == "invalid_target"
    assert (await house.refresh(app, told["refresh_token"])).status_code == 200


async def test_an_app_must_prove_itself(house: House, app: App) -> None:
    code = await house.code(app)
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": BACK,
        "code_verifier": house.verifiers[app.id],
    }
    for impostor in (App(app.id, "guess"), App(app.id, "é" * 3), App(app.id, None)):
        answer = await house.ask(impostor, "/oauth/token", **form)
        assert (answer.status_code, error_of(answer)) == (401, "invalid_client")
    http = house.browser().http
    for credentials in ("Basic", "Basic !!!", "Basic /////w==", "Bearer x", "Basic " + "QQ==" * 9):
        answer = await http.post("/oauth/token", data=form, headers={"Authorization": credentials})
        assert (answer.status_code, error_of(answer)) == (401, "invalid_client"), credentials
    assert (await house.ask(app, "/oauth/token", **form)).status_code == 200


@pytest.mark.parametrize("grant", ["password", "implicit", "client_credentials", 'é"', None])
async def test_there_are_no_other_grants(house: House, app: App, grant: str | None) -> None:
    answer = await house.ask(app, "/oauth/token", grant_type=grant, username="ada@example.org", password="x")
    assert answer.status_code == 400
    assert error_of(answer) in {"unsupported_grant_type", "unauthorized_client", "invalid_request"}


async def test_a_removed_app_gets_nothing_more(house: House, app: App) -> None:
    told = await house.tokens(app)
    code = await house.code(app, browser := house.browser())
    await house.remove(app)
    assert error_of(await house.redeem(app, code)) == "invalid_client"
    assert error_of(await house.refresh(app, told["refresh_token"])) == "invalid_client"
    assert (await browser.go("/oauth/authorize", **house.request(app))).status_code == 400
    assert urlsplit(str(browser.page.url)).path == "/oauth/authorize"
