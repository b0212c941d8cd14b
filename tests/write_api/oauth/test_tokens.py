"""Tokens after the first: refreshed, given back, looked at, and refused once what they rest on has ended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import jwt
import pytest
from anyio import from_thread

from commands.accounts import AskReset, ChangeRole, CloseAccount, FollowLink, LockAccount
from commands.clients import RotateClientSecret
from commands.loop import Answer, Command
from commands.second_factors import SetMfaPolicy
from commands.sessions import EndSessions, RefreshSession
from commands.sign_in import CheckPassword
from domain.access import Actor, Role
from domain.account import LinkPurpose
from domain.mfa_policy import Mfa
from domain.session import OFFLINE, PRESENT
from infra.http.tokens import TokenExpired, TokenInvalid, TokenRevoked
from infra.revocations import Revocations
from infra.signing_keys import retire, rotate
from tests.clinic import ORGANIZATION
from tests.people import OPERATOR, OTHER_PASSWORD
from tests.signing_in import App, House, sent_back
from write_api.oauth.authority import ACCESS_LIFETIME, Authority
from write_api.oauth.server import Server

SYSTEM: dict[str, Any] = {
    "grants": ["client_credentials"],
    "redirect_uris": [],
    "post_logout_redirect_uris": [],
    "scopes": ["system/Appointment.rs", "system/Slot.s"],
}


def error_of(answer: httpx.Response) -> str:
    told: str = answer.json()["error"]
    return told


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


async def test_a_refresh_token_is_good_once(house: House, app: App) -> None:
    first = await house.tokens(app)
    second = (await house.refresh(app, first["refresh_token"])).json()
    third = (await house.refresh(app, second["refresh_token"])).json()
    assert claims_of(third["access_token"])["sid"] == claims_of(first["access_token"])["sid"]
    assert claims_of(third["id_token"])["sub"] == claims_of(first["id_token"])["sub"]
    assert third["scope"] == first["scope"]
    assert len({told["refresh_token"] for told in (first, second, third)}) == 3


async def test_a_replayed_refresh_token_ends_the_session_for_both_who_have_it(house: House, app: App) -> None:
    """RFC 9700 §4.14.2."""
    first = await house.tokens(app)
    second = (await house.refresh(app, first["refresh_token"])).json()
    assert house.bearers().check(f"Bearer {second['access_token']}")
    assert error_of(await house.refresh(app, first["refresh_token"])) == "invalid_grant"
    assert error_of(await house.refresh(app, second["refresh_token"])) == "invalid_grant"
    await house.known()
    with pytest.raises(TokenRevoked):
        house.bearers().check(f"Bearer {second['access_token']}")


async def test_of_many_refreshes_at_once_at_most_one_holds(house: House, app: App) -> None:
    first = await house.tokens(app)
    answers = await house.at_once(*(house.refresh(app, first["refresh_token"]) for _ in range(8)))
    assert [answer.status_code for answer in answers].count(200) <= 1
    for answer in answers:
        token = answer.json().get("refresh_token", first["refresh_token"])
        assert error_of(await house.refresh(app, token)) == "invalid_grant"


async def test_a_refresh_token_is_its_apps_alone(house: House, app: App) -> None:
    told = await house.tokens(app)
    other = await house.app()
    assert error_of(await house.refresh(other, told["refresh_token"])) == "invalid_grant"
    assert error_of(await house.refresh(App(app.id, "guess"), told["refresh_token"])) == "invalid_client"
    assert (await house.refresh(app, told["refresh_token"])).status_code == 200


@pytest.mark.parametrize("token", ["", "x", "é", "A" * 200, "A" * 9000, None])
async def test_what_is_no_refresh_token_is_refused(house: House, app: App, token: str | None) -> None:
    answer = await house.refresh(app, token)  # type: ignore[arg-type]
    assert error_of(answer) in {"invalid_grant", "invalid_request"}
    code = await house.code(app)
    assert error_of(await house.refresh(app, code)) == "invalid_grant"


async def test_a_refresh_narrows_and_never_widens(house: House, app: App) -> None:
    first = await house.tokens(app, scope="openid offline_access patient/Appointment.rs")
    assert error_of(await house.refresh(app, first["refresh_token"], scope="openid fhirUser")) == "invalid_scope"
    told = (await house.refresh(app, first["refresh_token"], scope="openid")).json()
    assert told["scope"] == "openid"
    assert claims_of(told["access_token"])["scope"] == "openid"
    assert (await house.refresh(app, told["refresh_token"])).json()["scope"] == first["scope"]


async def test_a_session_ends_without_use_and_in_any_case_in_the_end(house: House, ada: Actor) -> None:
    app = await house.app(scopes=["openid", "online_access", "offline_access"])
    present = await house.tokens(app, scope="openid online_access")
    house.people.later(PRESENT.idle - timedelta(minutes=1))
    present = (await house.refresh(app, present["refresh_token"])).json()
    house.people.later(PRESENT.idle + timedelta(minutes=1))
    assert error_of(await house.refresh(app, present["refresh_token"])) == "invalid_grant"
    offline = await house.tokens(app, scope="openid offline_access")
    for _ in range(OFFLINE.whole // (OFFLINE.idle - timedelta(hours=1))):
        house.people.later(OFFLINE.idle - timedelta(hours=1))
        offline = (await house.refresh(app, offline["refresh_token"])).json()
    house.people.later(OFFLINE.idle - timedelta(hours=1))
    assert error_of(await house.refresh(app, offline["refresh_token"])) == "invalid_grant"


async def test_an_access_token_expires(house: House, app: App) -> None:
    told = await house.tokens(app)
    assert told["expires_in"] == ACCESS_LIFETIME.total_seconds()
    house.people.later(ACCESS_LIFETIME + timedelta(seconds=31))
    with pytest.raises(TokenExpired):
        house.bearers().check(f"Bearer {told['access_token']}")


async def test_an_id_token_opens_no_api(house: House, app: App) -> None:
    told = await house.tokens(app)
    with pytest.raises(TokenInvalid):
        house.bearers().check(f"Bearer {told['id_token']}")


@pytest.mark.parametrize("which", ["refresh_token", "access_token"])
async def test_a_token_given_back_ends_its_session_at_every_api(house: House, app: App, which: str) -> None:
    """RFC 7009."""
    told = await house.tokens(app)
    answer = await house.ask(app, "/oauth/revoke", token=told[which])
    assert answer.status_code == 200
    assert error_of(await house.refresh(app, told["refresh_token"])) == "invalid_grant"
    await house.known()
    with pytest.raises(TokenRevoked):
        house.bearers().check(f"Bearer {told['access_token']}")
    async with httpx.AsyncClient(base_url=house.url) as http:
        answer = await http.post(
            "/write/appointments", json={}, headers={"Authorization": f"Bearer {told['access_token']}"}
        )
    assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")


async def test_nobody_gives_back_anothers_token(house: House, app: App) -> None:
    told = await house.tokens(app)
    other = await house.app()
    assert error_of(await house.ask(other, "/oauth/revoke", token=told["refresh_token"])) == "invalid_grant"
    # What is no token is gone already (RFC 7009 §2.2).
    for token in ("x", "é", told["id_token"]):
        assert (await house.ask(app, "/oauth/revoke", token=token)).status_code == 200
    assert (await house.refresh(app, told["refresh_token"])).status_code == 200


async def test_what_a_token_is_good_for_is_told_to_whom_it_concerns(house: House, app: App, ada: Actor) -> None:
    """RFC 7662."""
    told = await house.tokens(app)

    async def asked(who: App, token: str) -> dict[str, Any]:
        answer = await house.ask(who, "/oauth/introspect", token=token)
        assert answer.status_code == 200
        content: dict[str, Any] = answer.json()
        return content

    said = await asked(app, told["access_token"])
    assert said["active"] is True
    assert (said["sub"], said["client_id"], said["scope"]) == (
        str(ada.account_id),
        app.id,
        " ".join(sorted(told["scope"].split())),
    )
    assert (await asked(app, told["refresh_token"]))["active"] is True
    assert await asked(await house.app(), told["access_token"]) == {"active": False}
    api = await house.app(**SYSTEM, introspects=True)
    assert (await asked(api, told["access_token"]))["active"] is True
    public = await house.app(kind="public")
    assert error_of(await house.ask(public, "/oauth/introspect", token=told["access_token"])) == "invalid_client"
    for nothing in ("x", "é", told["id_token"], told["access_token"][:-4] + "AAAA"):
        assert await asked(app, nothing) == {"active": False}
    following = (await house.refresh(app, told["refresh_token"])).json()
    assert await asked(app, told["refresh_token"]) == {"active": False}
    await house.ask(app, "/oauth/revoke", token=following["refresh_token"])
    await house.known()
    assert await asked(app, told["access_token"]) == {"active": False}


async def test_a_system_gets_tokens_by_its_secret_alone(house: House) -> None:
    system = await house.app(**SYSTEM)
    answer = await house.ask(system, "/oauth/token", grant_type="client_credentials", scope="system/*.cruds openid")
    told = answer.json()
    assert answer.status_code == 200
    assert told["scope"] == "system/Appointment.rs system/Slot.s"
    assert "refresh_token" not in told
    assert "id_token" not in told
    actor = house.bearers().check(f"Bearer {told['access_token']}").actor
    assert (actor.role, actor.id, actor.client_id, actor.account_id) == (Role.SYSTEM, system.id, system.id, None)
    assert actor.scopes == {"system/Appointment.rs", "system/Slot.s"}
    answer = await house.ask(system, "/oauth/token", grant_type="client_credentials", scope="user/Appointment.rs")
    assert error_of(answer) == "invalid_scope"
    answer = await house.ask(App(system.id, "guess"), "/oauth/token", grant_type="client_credentials")
    assert error_of(answer) == "invalid_client"


async def test_another_secret_ends_what_the_former_one_got(house: House) -> None:
    system = await house.app(**SYSTEM)
    told = (await house.ask(system, "/oauth/token", grant_type="client_credentials")).json()
    await house.desk.handle(RotateClientSecret(client_id=UUID(system.id), secret="0" * 64), OPERATOR, ORGANIZATION)
    assert error_of(await house.ask(system, "/oauth/token", grant_type="client_credentials")) == "invalid_client"
    await house.known()
    with pytest.raises(TokenRevoked):
        house.bearers().check(f"Bearer {told['access_token']}")


@pytest.mark.parametrize("what", ["lock", "close", "role", "password", "sign_out_everywhere", "remove_app"])
async def test_what_happens_to_an_account_ends_its_tokens(house: House, app: App, ada: Actor, what: str) -> None:
    told = await house.tokens(app)
    assert house.bearers().check(f"Bearer {told['access_token']}")
    assert ada.account_id is not None
    match what:
        case "lock":
            await house.people.asked(LockAccount(account_id=ada.account_id), OPERATOR)
        case "close":
            await house.people.asked(CloseAccount(account_id=ada.account_id), OPERATOR)
        case "role":
            await house.people.asked(ChangeRole(account_id=ada.account_id, role=Role.FRONT_DESK), OPERATOR)
        case "password":
            letter = (await house.people.asked(AskReset(email="ada@example.org")))["letter"]
            link = FollowLink(purpose=LinkPurpose.RESET, token=letter["token"], password=OTHER_PASSWORD)
            await house.people.asked(link)
        case "sign_out_everywhere":
            await house.people.asked(EndSessions(account_id=ada.account_id), ada)
        case "remove_app":
            await house.remove(app)
    assert error_of(await house.refresh(app, told["refresh_token"])) in {"invalid_grant", "invalid_client"}
    await house.known()
    with pytest.raises(TokenRevoked):
        house.bearers().check(f"Bearer {told['access_token']}")


async def test_a_role_that_comes_to_need_a_second_factor_ends_sign_ins_without_one(
    house: House, app: App, ada: Actor
) -> None:
    browser, strong = house.browser(), house.browser()
    weak = await house.tokens(app, browser)
    code = await house.code(app, browser)
    verifier = house.verifiers[app.id]
    bob = await house.people.patient("bob@example.org")
    authenticator = await house.people.with_totp(bob)
    house.people.later(timedelta(minutes=1))
    await strong.go("/oauth/authorize", **house.request(app))
    await strong.sign_in("bob@example.org")
    told = sent_back(await strong.send("/oauth/second-factor", code=house.people.code(authenticator)))
    going_on = (await house.redeem(app, told["code"])).json()

    await house.people.asked(SetMfaPolicy(roles={Role.PATIENT: Mfa.REQUIRED}), OPERATOR)
    await house.known()
    with pytest.raises(TokenRevoked):
        house.bearers().check(f"Bearer {weak['access_token']}")
    # A process that starts now knows it too.
    async with Revocations(house.log, house.clock) as another:
        assert another.position == house.revocations.position
        assert house.bearers(ended=another.ended).check(f"Bearer {going_on['access_token']}")
        with pytest.raises(TokenRevoked):
            house.bearers(ended=another.ended).check(f"Bearer {weak['access_token']}")
    house.verifiers[app.id] = verifier
    assert error_of(await house.redeem(app, code)) == "invalid_grant"
    assert error_of(await house.refresh(app, weak["refresh_token"])) == "invalid_grant"
    assert (await browser.http.get("/oauth/sessions")).status_code == 303
    assert house.bearers().check(f"Bearer {going_on['access_token']}")
    assert (await house.refresh(app, going_on["refresh_token"])).status_code == 200
    assert (await strong.http.get("/oauth/sessions")).status_code == 200
    # Whoever comes back sets one up first.
    await browser.go("/oauth/authorize", **house.request(app))
    assert 'class="secret"' in (await browser.sign_in()).text


async def test_signing_out_ends_what_was_opened_from_a_sign_in_that_was_replaced(house: House, ada: Actor) -> None:
    app = await house.app(scopes=["openid", "online_access"])
    browser = house.browser()
    first = await house.tokens(app, browser, scope=None)
    second = await house.tokens(app, browser, prompt="login", scope=None)
    third = await house.tokens(app, browser, prompt="login", scope=None)
    await browser.go("/oauth/sessions")
    await browser.send("/oauth/sign-out")
    await house.known()
    for told in (first, second, third):
        with pytest.raises(TokenRevoked):
            house.bearers().check(f"Bearer {told['access_token']}")
        assert error_of(await house.refresh(app, told["refresh_token"])) == "invalid_grant"


async def test_signing_out_ends_what_has_outlived_its_sign_in(house: House, ada: Actor) -> None:
    app = await house.app(scopes=["openid", "online_access"])
    browser = house.browser()
    told = await house.tokens(app, browser, scope=None)
    for _ in range(2):
        house.people.later(timedelta(minutes=20))
        told = (await house.refresh(app, told["refresh_token"])).json()
    assert (await browser.http.get("/oauth/sessions")).status_code == 303
    await browser.go("/oauth/end-session")
    await browser.send("/oauth/sign-out")
    assert error_of(await house.refresh(app, told["refresh_token"])) == "invalid_grant"


@pytest.mark.parametrize("what", ["lock", "close", "password", "policy", "sign_out", "copied"])
async def test_a_refresh_token_is_told_to_hold_only_where_a_refresh_would(house: House, ada: Actor, what: str) -> None:
    app = await house.app(scopes=["openid", "online_access"])
    browser = house.browser()
    told = await house.tokens(app, browser, scope="openid online_access")
    token = told["refresh_token"]

    async def active() -> bool:
        answer = (await house.ask(app, "/oauth/introspect", token=token)).json()
        return bool(answer["active"])

    assert await active()
    assert ada.account_id is not None
    match what:
        case "lock":
            await house.people.asked(LockAccount(account_id=ada.account_id), OPERATOR)
        case "close":
            await house.people.asked(CloseAccount(account_id=ada.account_id), OPERATOR)
        case "password":
            await with_another_password(house)
        case "policy":
            await house.people.asked(SetMfaPolicy(roles={Role.PATIENT: Mfa.REQUIRED}), OPERATOR)
        case "sign_out":
            await browser.go("/oauth/sessions")
            await browser.send("/oauth/sign-out")
        case "copied":
            await house.refresh(app, token)
    assert not await active()
    assert error_of(await house.refresh(app, token)) == "invalid_grant"


async def with_another_password(house: House) -> None:
    letter = (await house.people.asked(AskReset(email="ada@example.org")))["letter"]
    await house.people.asked(FollowLink(purpose=LinkPurpose.RESET, token=letter["token"], password=OTHER_PASSWORD))


async def test_a_password_that_changes_while_it_is_judged_lets_nobody_in(
    house: House, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Authority.ask

    async def overtaken(at: Authority, command: Command, *rest: Any) -> Answer:
        answer = await ask(at, command, *rest)
        if isinstance(command, CheckPassword):
            await with_another_password(house)
        return answer

    monkeypatch.setattr(Authority, "ask", overtaken)
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    assert (await browser.sign_in()).status_code == 401
    assert (await browser.http.get("/oauth/sessions")).status_code == 303


async def test_a_token_that_a_change_overtakes_is_refused_though_it_was_made_later(
    house: House, app: App, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says in which era it was given, so no two clocks are compared."""
    told = await house.tokens(app)
    system = await house.app(**SYSTEM)
    ask, generate = Authority.ask, Server.generate_token

    async def overtaken(at: Authority, command: Command, *rest: Any) -> Answer:
        answer = await ask(at, command, *rest)
        if isinstance(command, RefreshSession):
            await with_another_password(house)
        return answer

    def rotated(at: Server, *arguments: Any, **named: Any) -> dict[str, Any]:
        rotate = RotateClientSecret(client_id=UUID(system.id), secret="0" * 64)
        from_thread.run(house.desk.handle, rotate, OPERATOR, ORGANIZATION)
        token: dict[str, Any] = generate(at, *arguments, **named)
        return token

    monkeypatch.setattr(Authority, "ask", overtaken)
    overtaken_tokens = [(await house.refresh(app, told["refresh_token"])).json()["access_token"]]
    monkeypatch.setattr(Server, "generate_token", rotated)
    answer = await house.ask(system, "/oauth/token", grant_type="client_credentials")
    overtaken_tokens.append(answer.json()["access_token"])
    await house.known()
    for token in overtaken_tokens:
        with pytest.raises(TokenRevoked):
            house.bearers().check(f"Bearer {token}")


async def test_keys_rotate_under_a_running_server(house: House, app: App) -> None:
    before = await house.tokens(app)
    rotate(house.folder)
    house.keys.look()
    after = (await house.refresh(app, before["refresh_token"])).json()
    assert (
        jwt.get_unverified_header(after["access_token"])["kid"]
        != jwt.get_unverified_header(before["access_token"])["kid"]
    )
    async with httpx.AsyncClient(base_url=house.url) as http:
        told = (await http.get("/oauth/jwks")).json()["keys"]
    assert {jwt.get_unverified_header(each["id_token"])["kid"] for each in (before, after)} == {
        key["kid"] for key in told
    }
    assert not any("d" in key for key in told)
    for each in (before, after):
        assert house.bearers().check(f"Bearer {each['access_token']}")
    retire(house.folder)
    house.keys.look()
    with pytest.raises(TokenInvalid):
        house.bearers().check(f"Bearer {before['access_token']}")
    assert house.bearers().check(f"Bearer {after['access_token']}")


async def test_who_it_is_is_told_to_who_may_know(house: House, app: App, ada: Actor) -> None:
    mail = await house.app(scopes=["openid", "email", "fhirUser"])
    told = await house.tokens(mail, scope="openid email fhirUser")
    async with httpx.AsyncClient(base_url=house.url) as http:
        answer = await http.get("/oauth/userinfo", headers={"Authorization": f"Bearer {told['access_token']}"})
        assert answer.json() == {
            "sub": str(ada.account_id),
            "fhirUser": f"{house.url}/read/fhir/Patient/{ada.patient_id}",
            "email": "ada@example.org",
            "email_verified": True,
        }
        bare = await house.tokens(app, scope="patient/Appointment.rs")
        answer = await http.get("/oauth/userinfo", headers={"Authorization": f"Bearer {bare['access_token']}"})
        assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
        for header in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {told['id_token']}"}):
            assert (await http.get("/oauth/userinfo", headers=header)).status_code == 401


async def test_what_is_refused_is_told_to_the_audit(house: House, app: App) -> None:
    code = await house.code(app)
    told = (await house.redeem(app, code)).json()
    assert house.denied == []
    await house.redeem(app, code)
    assert house.denied == ["invalid_grant"]
    await house.refresh(App(app.id, "guess"), told["refresh_token"])
    assert house.denied == ["invalid_grant", "invalid_client"]
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    await browser.sign_in(password="wrong")
    assert len(house.denied) == 3
    # And the log says of the session that its code came again.
    names = await house.log.streams(ORGANIZATION, "session/", "session/~")
    loaded = await house.log.load(ORGANIZATION, dict.fromkeys(names, 0))
    ends = [row.event.model_dump() for rows in loaded.values() for row in rows if row.event.NAME == "SessionEnded.v1"]
    assert [end["reason"] for end in ends] == ["code_reused"]
