"""A standard OAuth client and OpenID Connect relying party, Authlib's, goes every way that there is with a running
server, knowing nothing of it but where its metadata stand."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oauth2.rfc6749.errors import MismatchingStateException
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import OpenIDProviderMetadata
from joserfc import jwt
from joserfc.jwk import KeySet

from domain.access import Actor
from tests.signing_in import App, House
from tests.write_api.oauth.test_tokens import SYSTEM


async def metadata_of(house: House, which: str = "openid-configuration") -> dict[str, Any]:
    async with httpx.AsyncClient() as http:
        told: dict[str, Any] = (await http.get(f"{house.url}/.well-known/{which}")).json()
    return told


def client_of(app: App, metadata: dict[str, Any], **more: Any) -> AsyncOAuth2Client:
    return AsyncOAuth2Client(
        app.id,
        app.secret,
        redirect_uri=app.back,
        token_endpoint=metadata["token_endpoint"],
        revocation_endpoint=metadata["revocation_endpoint"],
        introspection_endpoint=metadata["introspection_endpoint"],
        token_endpoint_auth_method="client_secret_basic" if app.secret else "none",
        revocation_endpoint_auth_method="client_secret_basic" if app.secret else "none",
        code_challenge_method="S256",
        **more,
    )


async def test_the_metadata_are_what_the_standards_ask(house: House) -> None:
    told = await metadata_of(house)
    OpenIDProviderMetadata(told).validate_issuer()
    # Everything but what demands https of a test's own address.
    assert told["issuer"] == house.url
    assert told["code_challenge_methods_supported"] == ["S256"]
    assert "none" not in told["id_token_signing_alg_values_supported"]
    assert told["response_types_supported"] == ["code"]
    assert not {"implicit", "password"} & set(told["grant_types_supported"])
    server = await metadata_of(house, "oauth-authorization-server")
    assert server.items() <= told.items()
    smart = await metadata_of(house, "smart-configuration")
    assert smart["code_challenge_methods_supported"] == ["S256"]
    assert {"sso-openid-connect", "permission-v2", "client-public"} <= set(smart["capabilities"])
    async with httpx.AsyncClient() as http:
        for name in ("authorization_endpoint", "token_endpoint", "userinfo_endpoint", "end_session_endpoint"):
            assert (await http.get(told[name])).status_code not in (404, 500), name


@pytest.mark.parametrize("kind", ["confidential", "public"])
async def test_a_relying_party_goes_the_whole_way(house: House, ada: Actor, kind: str) -> None:
    app = await house.app(kind=kind)
    metadata = await metadata_of(house)
    async with client_of(app, metadata, scope="openid fhirUser offline_access patient/Appointment.rs") as client:
        verifier, nonce = "v" * 50, "a nonce of its own"
        url, state = client.create_authorization_url(
            metadata["authorization_endpoint"], code_verifier=verifier, nonce=nonce
        )
        browser = house.browser()
        await browser.go(url)
        back = (await browser.sign_in()).headers["location"]
        with pytest.raises(MismatchingStateException):
            await client.fetch_token(authorization_response=back, code_verifier=verifier, state="another")
        token = await client.fetch_token(authorization_response=back, code_verifier=verifier, state=state)

        async with httpx.AsyncClient() as http:
            keys = KeySet.import_key_set((await http.get(metadata["jwks_uri"])).json())
        decoded = jwt.decode(token["id_token"], keys, metadata["id_token_signing_alg_values_supported"])
        claims = CodeIDToken(
            decoded.claims,
            decoded.header,
            {
                "iss": {"essential": True, "value": metadata["issuer"]},
                "aud": {"essential": True, "value": app.id},
                "sub": {"essential": True, "value": str(ada.account_id)},
            },
            {"nonce": nonce, "client_id": app.id, "access_token": token["access_token"]},
        )
        claims.validate(now=time.time(), leeway=5)

        told = (await client.get(metadata["userinfo_endpoint"])).json()
        assert told["sub"] == claims["sub"]
        answer = await client.post(f"{house.url}/write/appointments", json={})
        # Let in, and told what is missing in the body.
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid")

        following = await client.refresh_token(metadata["token_endpoint"], token["refresh_token"])
        assert following["refresh_token"] != token["refresh_token"]
        if app.secret:
            said = await client.introspect_token(metadata["introspection_endpoint"], following["access_token"])
            assert said.json()["active"] is True
        answer = await client.revoke_token(metadata["revocation_endpoint"], following["refresh_token"])
        assert answer.status_code == 200
        with pytest.raises(OAuthError, match="invalid_grant"):
            await client.refresh_token(metadata["token_endpoint"], following["refresh_token"])


async def test_a_code_meant_for_another_verifier_is_refused(house: House, app: App) -> None:
    metadata = await metadata_of(house)
    async with client_of(app, metadata, scope="openid") as client:
        url, state = client.create_authorization_url(metadata["authorization_endpoint"], code_verifier="v" * 50)
        browser = house.browser()
        await browser.go(url)
        back = (await browser.sign_in()).headers["location"]
        with pytest.raises(OAuthError, match="invalid_grant"):
            await client.fetch_token(authorization_response=back, code_verifier="w" * 50, state=state)


async def test_a_system_gets_in_by_itself(house: House) -> None:
    app = await house.app(**SYSTEM)
    metadata = await metadata_of(house)
    async with client_of(app, metadata, scope="system/Appointment.rs") as client:
        token = await client.fetch_token(metadata["token_endpoint"], grant_type="client_credentials")
        assert token["scope"] == "system/Appointment.rs"
        # It may not write; the API says which scope that needs.
        answer = await client.post(f"{house.url}/write/patients", json={})
        assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")


async def test_what_says_nothing_of_anybody_is_read_from_any_origin(house: House) -> None:
    """A page of another origin finds the way and the keys; nothing else of ours says that it may be read."""
    from_elsewhere = {"Origin": "https://elsewhere.example.org"}
    async with httpx.AsyncClient(base_url=house.url, headers=from_elsewhere) as http:
        for path in (
            "/oauth/jwks",
            "/.well-known/openid-configuration",
            "/.well-known/oauth-authorization-server",
            "/.well-known/smart-configuration",
        ):
            answer = await http.get(path)
            assert answer.headers["access-control-allow-origin"] == "*", path
            assert "access-control-allow-credentials" not in answer.headers
        for path in ("/oauth/userinfo", "/oauth/sign-in", "/oauth/sessions"):
            assert "access-control-allow-origin" not in (await http.get(path)).headers, path
