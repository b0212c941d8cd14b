"""Only a token of ours, for this service, in its time, names a caller; everything else is 401 and says why."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import APIRouter

from domain.access import Role
from infra.http.limits import Policy, RateLimit
from infra.http.service import service
from infra.http.tokens import (
    READ,
    WRITE,
    Asker,
    Bearers,
    Caller,
    SigningKey,
    TokenExpired,
    TokenInvalid,
    TokenRevoked,
    Unauthenticated,
    mint,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = SigningKey(os.urandom(32))
OTHER = SigningKey(os.urandom(32))


class Clock:
    def __init__(self) -> None:
        self.now = NOW.timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def check(clock: Clock) -> Callable[[str], Caller]:
    bearer = Bearers({KEY.id: KEY.public}, WRITE, clock=clock)
    return lambda token: bearer.check(f"Bearer {token}")


def token(key: SigningKey = KEY, **given: Any) -> str:
    usual = {
        "role": Role.FRONT_DESK,
        "organization": "main",
        "subject": "desk-1",
        "now": NOW,
        "lifetime": timedelta(hours=1),
    }
    return mint(key, **(usual | given))


def forged(change: dict[str, Any], key: SigningKey = KEY, **header: Any) -> str:
    claims = jwt.decode(token(), options={"verify_signature": False})
    claims = {name: value for name, value in (claims | change).items() if value is not ...}
    return jwt.encode(claims, key.private, algorithm="EdDSA", headers={"kid": KEY.id, "typ": "at+jwt"} | header)


def part(data: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()


def test_a_good_token_names_its_caller(check: Callable[[str], Caller]) -> None:
    person = uuid4()
    caller = check(token(role=Role.PATIENT, patient_id=person))
    assert caller.organization == "main"
    assert (caller.actor.id, caller.actor.role, caller.actor.patient_id) == ("desk-1", Role.PATIENT, person)
    assert check(token(provider_id=person)).actor.provider_id == person


def test_a_token_of_somebody_signed_in_says_how_and_for_what(check: Callable[[str], Caller]) -> None:
    account, session = uuid4(), uuid4()
    actor = check(
        token(
            account_id=account,
            session_id=session,
            client_id="desk-app",
            scopes=["user/Appointment.rs", "openid"],
            factors=["pwd", "otp"],
            authenticated_at=NOW,
        )
    ).actor
    assert (actor.account_id, actor.session_id, actor.client_id) == (account, session, "desk-app")
    assert (actor.scopes, actor.factors) == (frozenset({"openid", "user/Appointment.rs"}), frozenset({"pwd", "otp"}))
    assert actor.authenticated_at == NOW
    assert check(token()).actor.scopes is None


@pytest.mark.parametrize("claim", [{"scope": ["a"]}, {"amr": "pwd", "sid": "x"}, {"auth_time": 1e99}, {"client_id": 7}])
def test_claims_of_another_shape_are_refused(check: Callable[[str], Caller], claim: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid):
        check(forged(claim))


def test_a_token_ends_with_what_it_rests_on(clock: Clock) -> None:
    ended: set[str] = set()
    bearer = Bearers({KEY.id: KEY.public}, WRITE, clock=clock, ended=lambda caller, made: caller.actor.id in ended)
    header = f"Bearer {token()}"
    assert bearer.check(header).actor.id == "desk-1"
    ended.add("desk-1")
    # Though it was remembered as good.
    with pytest.raises(TokenRevoked):
        bearer.check(header)


def test_no_algorithm_but_ours(check: Callable[[str], Caller]) -> None:
    _, body, _ = token().split(".")
    for algorithm in ("none", "None", "NONE"):
        bare = f"{part({'alg': algorithm, 'typ': 'at+jwt', 'kid': KEY.id})}.{body}"
        for end in (".", f".{token().split('.')[2]}"):
            with pytest.raises(TokenInvalid):
                check(bare + end)
    # The public key, which everybody may know, as the secret of a symmetric signature.
    for public in (
        KEY.public.public_bytes(Encoding.Raw, PublicFormat.Raw),
        KEY.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ):
        signed = f"{part({'alg': 'HS256', 'typ': 'at+jwt', 'kid': KEY.id})}.{body}"
        tag = base64.urlsafe_b64encode(hmac.digest(public, signed.encode(), hashlib.sha256)).rstrip(b"=").decode()
        with pytest.raises(TokenInvalid):
            check(f"{signed}.{tag}")


def test_no_other_kind_of_token(check: Callable[[str], Caller]) -> None:
    assert check(forged({}, typ="application/at+jwt"))
    for kind in ("JWT", "id+jwt", "", None, ["at+jwt"]):
        with pytest.raises(TokenInvalid):
            check(forged({}, typ=kind))


def test_no_key_but_ours(check: Callable[[str], Caller]) -> None:
    x = base64.urlsafe_b64encode(OTHER.public.public_bytes(Encoding.Raw, PublicFormat.Raw)).rstrip(b"=").decode()
    own_key = {"kty": "OKP", "crv": "Ed25519", "x": x}
    for false in (
        token(OTHER),
        forged({}, OTHER),
        forged({}, OTHER, jwk=own_key),
        forged({}, OTHER, jku="https://example.org/keys"),
        forged({}, kid=OTHER.id),
        forged({}, kid="../../../dev/null"),
    ):
        with pytest.raises(TokenInvalid):
            check(false)


def test_nothing_in_it_may_be_changed(check: Callable[[str], Caller]) -> None:
    header, body, signature = token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    for change in ({"role": "admin"}, {"org": "other"}, {"exp": claims["exp"] + 9999}):
        with pytest.raises(TokenInvalid):
            check(f"{header}.{part(claims | change)}.{signature}")
    with pytest.raises(TokenInvalid):
        check(f"{header}.{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}")


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "org", "role", "exp", "iat", "jti"])
def test_every_claim_is_required(check: Callable[[str], Caller], claim: str) -> None:
    with pytest.raises(TokenInvalid):
        check(forged({claim: ...}))


@pytest.mark.parametrize(
    "change",
    [
        {"aud": READ},
        {"aud": [READ, "daybook-writer"]},
        {"aud": []},
        {"iss": "somebody"},
        {"org": "Main"},
        {"org": "../main"},
        {"org": "main\n"},
        {"org": "x" * 64},
        {"org": 5},
        {"sub": ""},
        {"sub": "maria lopez"},
        {"sub": "x" * 129},
        {"role": "king"},
        {"role": ["admin"]},
        {"patient": "me"},
        {"patient": None},
        {"provider": 5},
        {"exp": "tomorrow"},
        {"exp": True},
        {"iat": None},
        {"nbf": "now"},
    ],
)
def test_a_claim_that_means_nothing_is_refused(check: Callable[[str], Caller], change: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid):
        check(forged(change))


def test_a_token_is_good_in_its_time_alone(check: Callable[[str], Caller], clock: Clock) -> None:
    good = token()
    check(good)
    clock.now += 3600 + 29
    check(good)
    clock.now += 1
    with pytest.raises(TokenExpired):
        check(good)
    clock.now = NOW.timestamp() - 31
    with pytest.raises(TokenInvalid, match="not valid yet"):
        check(token())
    clock.now = NOW.timestamp()
    with pytest.raises(TokenInvalid, match="not valid yet"):
        check(forged({"nbf": NOW.timestamp() + 60}))


@pytest.mark.parametrize(
    "rubbish", ["", "a", "a.b", "a.b.c", "a.b.c.d", "…", "\udcff", "x" * 5000, part([]) + ".e30.AA"]
)
def test_rubbish_is_refused(check: Callable[[str], Caller], rubbish: str) -> None:
    with pytest.raises(Unauthenticated):
        check(rubbish)


def test_what_is_remembered_is_bounded_and_forgotten_at_its_end(clock: Clock) -> None:
    bearer = Bearers({KEY.id: KEY.public}, WRITE, clock=clock, remembered=2)
    for number in range(5):
        bearer.check("Bearer " + token(subject=f"desk-{number}"))
    assert len(bearer._known) == 2
    clock.now += 3700
    with pytest.raises(TokenExpired):
        bearer.check("Bearer " + token(subject="desk-4"))


def test_no_token_is_minted_that_would_not_be_accepted() -> None:
    with pytest.raises(ValueError, match="slug"):
        token(organization="Main Street")
    with pytest.raises(ValueError, match="opaque"):
        token(subject="maria lopez")


async def test_over_http_the_answer_says_how_to_get_in(clock: Clock) -> None:
    bearer = Bearers({KEY.id: KEY.public}, WRITE, clock=clock, limit=RateLimit(Policy(2, 60)))
    routes = APIRouter()

    @routes.get("/me")
    async def me(caller: Asker) -> str:
        return f"{caller.organization}/{caller.actor.id}"

    app = service("write", title="Me", description="", routers=[routes], bearers=bearer)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://book") as client:
        for header in (None, "Basic abc", "Bearer", "Bearer "):
            answer = await client.get("/write/me", headers={"authorization": header} if header else {})
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
            assert answer.headers["www-authenticate"] == 'Bearer realm="daybook"'
        answer = await client.get("/write/me", headers={"authorization": f"Bearer {token(OTHER)}"})
        assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        good = {"authorization": f"bearer {token()}"}
        for left in (1, 0):
            answer = await client.get("/write/me", headers=good)
            assert answer.json() == "main/desk-1"
            assert answer.headers["ratelimit-policy"] == '"default";q=2;w=60'
            assert answer.headers["ratelimit"].startswith(f'"default";r={left};t=')
        answer = await client.get("/write/me", headers=good)
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")
        assert 0 < int(answer.headers["retry-after"]) <= 30
        assert answer.headers["ratelimit"].startswith('"default";r=0;t=')
        document = (await client.get("/write/openapi.json")).json()
        assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
        assert document["paths"]["/write/me"]["get"]["security"] == [{"bearer": []}]
