"""Apps and systems over HTTP: registered by administrators, with a secret that is shown once; and sessions ended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import jwt
import pytest

from domain.access import Actor, Role
from infra.http.tokens import mint
from tests.clinic import ORGANIZATION
from tests.signing_in import App, House

PORTAL: dict[str, Any] = {
    "name": "Portal",
    "kind": "confidential",
    "grants": ["authorization_code", "refresh_token", "client_credentials"],
    "redirect_uris": ["https://app.example.org/back"],
    "scopes": ["openid", "system/Appointment.rs"],
}


async def ask(house: House, method: str, path: str, *, token: str | None = None, **asked: Any) -> httpx.Response:
    """As an administrator, with a token that an operator minted, unless another is given."""
    admin = mint(
        house.keys.newest(),
        role=Role.ADMIN,
        organization=ORGANIZATION,
        subject="admin-1",
        now=house.clock.now(),
        lifetime=timedelta(minutes=5),
    )
    headers = {"Authorization": f"Bearer {token or admin}", **asked.pop("headers", {})}
    async with httpx.AsyncClient(base_url=house.url) as http:
        return await http.request(method, path, headers=headers, **asked)


async def test_a_client_is_registered_given_another_secret_and_removed(house: House) -> None:
    answer = await ask(house, "POST", "/write/clients", json=PORTAL)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    app = App(made["client_id"], made["client_secret"])

    async def system_token(who: App) -> int:
        return (await house.ask(who, "/oauth/token", grant_type="client_credentials")).status_code

    assert await system_token(app) == 200
    other = (await ask(house, "POST", f"/write/clients/{app.id}/secret")).json()
    assert await system_token(app) == 401
    app = App(app.id, other["client_secret"])
    assert await system_token(app) == 200
    assert (await ask(house, "DELETE", f"/write/clients/{app.id}")).status_code == 200
    assert await system_token(app) == 401
    rows = (await house.log.load(ORGANIZATION, {f"client/{app.id}": 0}))[f"client/{app.id}"]
    told = "".join(row.event.model_dump_json() for row in rows)
    assert made["client_secret"] not in told
    assert other["client_secret"] not in told


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        # A programme that was let in by its secret makes no others.
        ({"role": Role.SYSTEM, "client_id": "c-1", "scopes": ["system/*.cruds"]}, "not_allowed"),
        # An old sign-in, and a fresh one whose token reaches less than the client would.
        ({"role": Role.ADMIN, "account_id": UUID(int=7), "scopes": ["user/*.cruds"], "ago": 11}, "step_up_required"),
        ({"role": Role.ADMIN, "account_id": UUID(int=7), "scopes": ["user/Client.cruds"], "ago": 1}, "not_allowed"),
    ],
)
async def test_nobody_gains_by_a_client_what_their_token_does_not_reach(
    house: House, claims: dict[str, Any], code: str
) -> None:
    now = house.clock.now()
    claims = dict(claims)
    if (ago := claims.pop("ago", None)) is not None:
        claims["authenticated_at"] = now - timedelta(minutes=ago)
    lifetime = timedelta(minutes=5)
    key = house.keys.newest()
    token = mint(key, organization=ORGANIZATION, subject="somebody-1", now=now, lifetime=lifetime, **claims)
    answer = await ask(house, "POST", "/write/clients", token=token, json=PORTAL)
    assert (answer.status_code, answer.json()["code"]) == (403, code)
    made = (await ask(house, "POST", "/write/clients", json=PORTAL)).json()
    answer = await ask(house, "POST", f"/write/clients/{made['client_id']}/secret", token=token)
    assert (answer.status_code, answer.json()["code"]) == (403, code)


async def test_a_secret_is_remembered_nowhere(house: House) -> None:
    answer = await ask(house, "POST", "/write/clients", json=PORTAL, headers={"Idempotency-Key": "once"})
    assert answer.status_code == 422
    public = PORTAL | {"kind": "public", "grants": ["authorization_code"], "scopes": ["openid"]}
    made = (await ask(house, "POST", "/write/clients", json=public)).json()
    assert made["client_secret"] is None
    answer = await ask(house, "POST", f"/write/clients/{made['client_id']}/secret")
    assert (answer.status_code, answer.json()["code"]) == (409, "secret_needless")


@pytest.mark.parametrize(
    "faulty",
    [
        {"redirect_uris": ["http://app.example.org/back"]},
        {"redirect_uris": ["https://app.example.org/*"]},
        {"redirect_uris": ["javascript:alert(1)"]},
        {"grants": ["implicit"]},
        {"grants": ["password"]},
        {"scopes": ["everything"]},
        {"kind": "public"},
        {"surprise": 1},
        {"name": "\u0000"},
    ],
    ids=str,
)
async def test_what_does_not_fit_is_refused(house: House, faulty: dict[str, Any]) -> None:
    answer = await ask(house, "POST", "/write/clients", json=PORTAL | faulty)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


async def test_an_app_signs_its_person_out_everywhere_else(house: House, ada: Actor) -> None:
    app = await house.app(scopes=["openid", "offline_access", "user/Session.ds"])
    scope = "openid offline_access user/Session.ds"
    one, two, here = [await house.tokens(app, scope=scope) for _ in range(3)]
    sessions = [jwt.decode(each["id_token"], options={"verify_signature": False})["sid"] for each in (one, two, here)]
    path = f"/write/accounts/{ada.account_id}/sessions"
    answer = await ask(house, "DELETE", f"{path}/{sessions[0]}", token=here["access_token"])
    assert answer.status_code == 200
    assert (await house.refresh(app, one["refresh_token"])).status_code == 400
    assert (await house.refresh(app, two["refresh_token"])).status_code == 200
    answer = await ask(house, "DELETE", path, token=here["access_token"])
    # The other app's, and the three browsers that they were opened from.
    assert answer.json()["ended"] == 4
    assert (await house.refresh(app, here["refresh_token"])).status_code == 200
    grace = await house.people.staff(Role.FRONT_DESK)
    for place in (path, f"{path}/{sessions[2]}"):
        stranger = mint(
            house.keys.newest(),
            role=Role.FRONT_DESK,
            organization=ORGANIZATION,
            subject="grace",
            now=house.clock.now(),
            lifetime=timedelta(minutes=5),
            account_id=grace.account_id,
        )
        answer = await ask(house, "DELETE", place, token=stranger)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown")


async def test_an_administrator_ends_anothers_sessions(house: House, app: App, ada: Actor) -> None:
    told = await house.tokens(app)
    answer = await ask(house, "DELETE", f"/write/accounts/{ada.account_id}/sessions")
    assert answer.json()["ended"] == 2
    assert (await house.refresh(app, told["refresh_token"])).status_code == 400
    name = (await house.log.streams(ORGANIZATION, "session/", "session/~"))[0]
    last = (await house.log.load(ORGANIZATION, {name: 0}))[name][-1]
    assert (last.event.model_dump()["reason"], last.actor) == ("administrator", "admin-1")
