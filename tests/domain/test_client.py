"""Which clients can be registered, where they may send people back to, and how far they may go."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain import access, client
from domain.client import Client, ClientIsRemoved, Details, Grant, Kind, ScopesTooLong, SecretNeedless

ID = UUID(int=1)
SECRET = "5e" * 32


def details(**more: Any) -> Details:
    return Details.model_validate(
        {
            "name": "An app",
            "kind": "public",
            "grants": ["authorization_code", "refresh_token"],
            "redirect_uris": ["https://app.example.org/back"],
            "scopes": ["openid", "user/Appointment.rs"],
        }
        | more
    )


def registered(**more: Any) -> Client:
    return client.evolve(None, client.register(ID, details(**more), SECRET))


@pytest.mark.parametrize(
    "uri",
    [
        "http://app.example.org/back",
        "https://app.example.org/back#part",
        "https://*.example.org/back",
        "https://user@app.example.org/back",
        "https:///back",
        "https://app.example.org:70000/back",
        "https://app.example.org/ba ck",
        "https://app.example.org/back\n",
        "https://app.exämple.org/back",
        "http://localhost/back",
        "http://127.0.0.1.example.org/back",
        "javascript:alert(1)",
        "org.example.app:/back",
        "/back",
    ],
)
def test_where_people_may_not_be_sent(uri: str) -> None:
    with pytest.raises(ValidationError):
        details(redirect_uris=[uri])


@pytest.mark.parametrize(
    "faulty",
    [
        {"grants": ["implicit"]},
        {"grants": ["password"]},
        {"grants": []},
        {"redirect_uris": []},
        {"grants": ["client_credentials"], "kind": "confidential"},
        {"grants": ["client_credentials"], "redirect_uris": []},
        {"grants": ["refresh_token"], "redirect_uris": []},
        {"scopes": ["admin"]},
        {"scopes": ["system/Appointment.rs"]},
        {"introspects": True},
    ],
)
def test_what_does_not_fit_together(faulty: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        details(**faulty)


@pytest.mark.parametrize(
    "uri",
    [
        "https://app.example.org/back/",
        "https://app.example.org/back/more",
        "https://app.example.org/bac",
        "https://app.example.org/back?next=https://evil.example",
        "https://app.example.org:444/back",
        "https://APP.example.org/back",
        "https://app.example.org/back#",
        "https://app.example.org/%62ack",
        "http://app.example.org/back",
        "",
    ],
)
def test_a_redirect_uri_is_compared_character_by_character(uri: str) -> None:
    assert registered().has_redirect_uri("https://app.example.org/back")
    assert not registered().has_redirect_uri(uri)


@given(st.integers(1, 65535))
def test_on_the_own_machine_the_port_is_free_and_nothing_else(port: int) -> None:
    known = registered(redirect_uris=["http://127.0.0.1/back?a=1", "http://[::1]:8000/back"])
    assert known.has_redirect_uri(f"http://127.0.0.1:{port}/back?a=1")
    assert known.has_redirect_uri(f"http://[::1]:{port}/back")
    for uri in (
        f"http://127.0.0.1:{port}/back",
        f"http://127.0.0.1:{port}/back?a=2",
        f"http://127.0.0.1:{port}/other?a=1",
        f"http://127.0.0.1:{port}@evil.example/back?a=1",
        f"http://127.0.0.2:{port}/back?a=1",
        f"http://localhost:{port}/back?a=1",
        f"https://127.0.0.1:{port}/back?a=1",
        f"http://127.0.0.1:{port}.evil.example/back?a=1",
    ):
        assert not known.has_redirect_uri(uri)


def test_a_public_client_has_no_secret_and_a_removed_one_gets_none() -> None:
    assert registered().secret is None
    with pytest.raises(SecretNeedless):
        client.rotate_secret(registered(), SECRET)
    confidential = registered(kind=Kind.CONFIDENTIAL)
    assert confidential.knows_secret(SECRET)
    rotated = client.evolve(confidential, client.rotate_secret(confidential, "a0" * 32))
    assert not rotated.knows_secret(SECRET)
    (gone,) = client.remove(rotated)
    removed = client.evolve(rotated, gone)
    assert not removed.may_use(Grant.AUTHORIZATION_CODE)
    assert list(client.remove(removed)) == []
    with pytest.raises(ClientIsRemoved):
        client.rotate_secret(removed, SECRET)


def test_a_scope_is_granted_as_far_as_the_client_and_whoever_it_acts_for_go() -> None:
    known = registered(scopes=["openid", "user/Appointment.rs", "patient/*.rs"])
    assert client.scopes_for(known, ["openid", "user/*.cruds", "profile"], ["user"]) == (
        "openid",
        "user/Appointment.rs",
    )
    assert client.scopes_for(known, [], ["patient"]) == ("openid", "patient/*.rs")
    assert client.scopes_for(known, ["system/*.rs"], ["user", "system"]) == ()


def test_no_more_scopes_than_fit_into_a_code_and_a_token() -> None:
    types = sorted({rule.scope.split(".")[0] for rule in access.POLICY.values() if rule.scope})
    words = [f"{context}/{name}.cruds" for context in ("user", "patient") for name in types]
    words = [*words, *(f"user/{'Z' * 60}.{letters}" for letters in ("c", "r", "u", "d", "s") for _ in range(4))]
    fitting = [word for end, word in enumerate(words) if len(" ".join(words[: end + 1])) <= client.LONGEST_SCOPES]
    assert registered(scopes=fitting)
    with pytest.raises(ScopesTooLong) as refusal:
        registered(scopes=[*fitting, *words[len(fitting) :]])
    assert refusal.value.details == {"longest": client.LONGEST_SCOPES}


_X = "A" * 43
_ED25519 = {"kid": "1", "alg": "EdDSA", "kty": "OKP", "crv": "Ed25519", "x": _X}


@pytest.mark.parametrize(
    "key",
    [
        _ED25519 | {"d": _X},
        _ED25519 | {"alg": "HS256", "kty": "oct", "k": _X},
        _ED25519 | {"alg": "ES256"},
        _ED25519 | {"y": _X},
        _ED25519 | {"x": "A" * 42},
        _ED25519 | {"x": None},
        _ED25519 | {"kid": ""},
        _ED25519 | {"use": "enc"},
        {"kid": "1", "alg": "ES384", "kty": "EC", "crv": "P-256", "x": _X, "y": _X},
        {"kid": "1", "alg": "ES256", "kty": "EC", "crv": "P-256", "x": _X},
        {"kid": "1", "alg": "RS384", "kty": "RSA", "n": "A" * 170, "e": "AQAB"},
        {"kid": "1", "alg": "RS384", "kty": "RSA", "n": "A" * 342, "e": "AQ"},
    ],
)
def test_what_is_no_public_key_is_refused(key: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        details(kind="confidential", keys=[key])


def test_a_client_with_keys_has_no_secret() -> None:
    signs = registered(kind="confidential", keys=[_ED25519])
    assert signs.secret is None
    with pytest.raises(SecretNeedless):
        client.rotate_secret(signs, SECRET)
    for wrong in ({"keys": [_ED25519]}, {"kind": "confidential", "keys": [_ED25519, _ED25519]}):
        with pytest.raises(ValidationError):
            details(**wrong)
