"""Clients that sign (RFC 7523, SMART App Launch 2.2): let in by the key that was registered, once an assertion."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from commands.clients import RegisterClient
from domain.client import Details, KeyNotTaken
from tests.clinic import ORGANIZATION
from tests.people import OPERATOR
from tests.signing_in import App, House
from write_api.oauth.assertions import ALGORITHMS

KEYS: dict[str, Any] = {
    "ES384": ECKey.generate_key("P-384", {"kid": "ES384", "alg": "ES384"}),
    "RS384": RSAKey.generate_key(2048, {"kid": "RS384", "alg": "RS384"}),
    "ES256": ECKey.generate_key("P-256", {"kid": "ES256", "alg": "ES256"}),
    "EdDSA": OKPKey.generate_key("Ed25519", {"kid": "EdDSA", "alg": "EdDSA"}),
}
STRANGE = OKPKey.generate_key("Ed25519", {"kid": "EdDSA", "alg": "EdDSA"})
SYSTEM: dict[str, Any] = {
    "grants": ["client_credentials"],
    "redirect_uris": [],
    "post_logout_redirect_uris": [],
    "scopes": ["system/Appointment.rs"],
}
BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def public(*names: str) -> list[dict[str, Any]]:
    return [dict(KEYS[name].as_dict(private=False)) for name in names]


@pytest.fixture
async def system(house: House) -> App:
    app = await house.app(**SYSTEM, keys=public(*KEYS))
    return App(app.id, None)


def claims(house: House, app: App, **more: Any) -> dict[str, Any]:
    said = {
        "iss": app.id,
        "sub": app.id,
        "aud": f"{house.url}/oauth/token",
        "exp": int((house.clock.now() + timedelta(minutes=4)).timestamp()),
        "jti": uuid4().hex,
    } | more
    return {name: value for name, value in said.items() if value is not None}


def signed(said: dict[str, Any], alg: str = "EdDSA", key: Any = None, kid: str | None = None) -> str:
    return jwt.encode({"alg": alg, "kid": kid or alg}, said, key or KEYS[alg], algorithms=[*ALGORITHMS, "HS256"])


async def asked(house: House, assertion: str, **more: Any) -> httpx.Response:
    form = {"grant_type": "client_credentials", "client_assertion_type": BEARER, "client_assertion": assertion}
    async with httpx.AsyncClient(base_url=house.url) as http:
        return await http.post("/oauth/token", data=form | more)


async def test_a_client_is_let_in_by_each_of_its_keys_and_once_an_assertion(house: House, system: App) -> None:
    for alg in ALGORITHMS:
        assertion = signed(claims(house, system), alg)
        answer = await asked(house, assertion)
        assert answer.status_code == 200, (alg, answer.text)
        actor = house.bearers().check(f"Bearer {answer.json()['access_token']}").actor
        assert (actor.client_id, actor.scopes) == (system.id, {"system/Appointment.rs"})
        again = await asked(house, assertion)
        assert (again.status_code, again.json()["error"]) == (401, "invalid_client")
    assertion = signed(claims(house, system))
    answers = await house.at_once(*(asked(house, assertion, client_id=system.id) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200, *[401] * 5]


def _unsigned(said: dict[str, Any]) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "kid": "EdDSA"}, said)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


WRONG: dict[str, Callable[[House, App], str]] = {
    "another audience": lambda house, app: signed(claims(house, app, aud=house.url)),
    "too long": lambda house, app: signed(claims(house, app, exp=int(house.clock.now().timestamp()) + 600)),
    "over": lambda house, app: signed(claims(house, app, exp=int(house.clock.now().timestamp()) - 60)),
    "no end": lambda house, app: signed(claims(house, app, exp=None)),
    "no number": lambda house, app: signed(claims(house, app, exp=float("nan"))),
    "no id": lambda house, app: signed(claims(house, app, jti=None)),
    "an id that is none": lambda house, app: signed(claims(house, app, jti=7)),
    "a long id": lambda house, app: signed(claims(house, app, jti="x" * 201)),
    "another issuer": lambda house, app: signed(claims(house, app, iss=str(uuid4()))),
    "an unknown client": lambda house, app: signed(claims(house, App(str(uuid4()), None))),
    "no client": lambda house, app: signed(claims(house, app, sub=None)),
    "another's key": lambda house, app: signed(claims(house, app), key=STRANGE),
    "an unknown key": lambda house, app: signed(claims(house, app), kid="other"),
    "a key for another algorithm": lambda house, app: signed(claims(house, app), "ES384", kid="ES256"),
    "a public key as a secret": lambda house, app: signed(
        claims(house, app), "HS256", OctKey.import_key(json.dumps(public("EdDSA")[0])), kid="EdDSA"
    ),
    "no signature": lambda house, app: _unsigned(claims(house, app)),
    "no assertion": lambda house, app: "x",
    "no base64": lambda house, app: "é.é.é",
    "nested": lambda house, app: base64.urlsafe_b64encode(b"[" * 3000).decode() + ".e30.e30",
    "nothing": lambda house, app: "",
}


async def test_what_proves_no_client_is_refused(house: House, system: App) -> None:
    for name, wrong in WRONG.items():
        answer = await asked(house, wrong(house, system))
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), (name, answer.text)
    other = await asked(house, signed(claims(house, system)), client_id=str(uuid4()))
    assert other.json()["error"] == "invalid_client"
    assert len(house.denied) == len(WRONG) + 1


async def test_a_client_that_signs_has_no_secret_and_one_with_a_secret_signs_nothing(house: House, system: App) -> None:
    with_secret = await house.ask(App(system.id, "guess"), "/oauth/token", grant_type="client_credentials")
    assert with_secret.json()["error"] == "invalid_client"
    bare = await house.ask(system, "/oauth/token", grant_type="client_credentials", client_id=system.id)
    assert bare.json()["error"] == "invalid_client"
    plain = await house.app(**SYSTEM)
    assert (await asked(house, signed(claims(house, plain)))).json()["error"] == "invalid_client"


async def test_a_key_that_is_none_is_not_registered(house: House) -> None:
    off = public("ES256")[0] | {"x": "A" * 43}
    short = RSAKey.generate_key(1024, {"kid": "RS384", "alg": "RS384"}).as_dict(private=False)
    # 1024 bits behind so many zeros that it looks like 2048.
    modulus = base64.urlsafe_b64decode(f"{short['n']}==").rjust(256, b"\0")
    padded = short | {"n": base64.urlsafe_b64encode(modulus).rstrip(b"=").decode()}
    for key in (off, padded):
        details = Details.model_validate(SYSTEM | {"name": "A system", "kind": "confidential", "keys": [key]})
        with pytest.raises(KeyNotTaken):
            await house.desk.handle(RegisterClient(details=details, secret="0" * 64), OPERATOR, ORGANIZATION)


async def test_it_is_said_where_apps_look(house: House) -> None:
    async with httpx.AsyncClient(base_url=house.url) as http:
        for path in ("oauth-authorization-server", "openid-configuration", "smart-configuration"):
            told = (await http.get(f"/.well-known/{path}")).json()
            assert "private_key_jwt" in told["token_endpoint_auth_methods_supported"]
            assert told["token_endpoint_auth_signing_alg_values_supported"] == ["ES384", "RS384", "ES256", "EdDSA"]
    assert "client-confidential-asymmetric" in told["capabilities"]
