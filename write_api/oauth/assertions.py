"""Clients that show who they are by a signature (RFC 7523 §2.2; SMART App Launch 2.2, asymmetric authentication).

In: a client's assertion. Out: the client, once. Runs in the library's thread; whether the assertion was used before is
asked of the log.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

from authlib.oauth2 import rfc7523  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749 import InvalidClientError  # type: ignore[import-untyped]
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from commands.addresses import shaped
from commands.clients import UseAssertion
from domain.client import KeyAlgorithm
from write_api.oauth.authority import Authority
from write_api.oauth.parties import ClientOf
from write_api.oauth.requests import Asked

METHOD: Final = "private_key_jwt"
ALGORITHMS: Final = [one.value for one in KeyAlgorithm]
# SMART App Launch 2.2: no more than five minutes ahead.
LIFETIME: Final = timedelta(minutes=5)
_LEEWAY: Final = timedelta(seconds=30)
_LONGEST: Final = 8192
_LONGEST_ID: Final = 200


class SignedAssertion(rfc7523.JWTBearerClientAssertion):  # type: ignore[misc]
    CLIENT_AUTH_METHOD: ClassVar = METHOD

    def __init__(self, authority: Authority) -> None:
        # The log is asked at the end.
        super().__init__(validate_jti=False)
        self._authority = authority

    def __call__(self, query_client: Any, request: Asked) -> ClientOf | None:
        form = request.form
        if form.get("client_assertion_type") != self.CLIENT_ASSERTION_TYPE:
            return None
        try:
            return self._shown(query_client, request, form)
        except InvalidClientError as error:
            # As a wrong secret, of which the audit hears.
            error.status_code = 401
            raise

    def _shown(self, query_client: Any, request: Asked, form: dict[str, str]) -> ClientOf:
        # RFC 7521 §4.2: where the client is named beside the assertion, it is the same.
        claims = self.extract_assertion(form.get("client_assertion", "")[:_LONGEST])[1]
        if form.get("client_id", claims.get("sub")) != claims.get("sub"):
            raise InvalidClientError(description="The assertion is another client's.")
        client: ClientOf = super().__call__(query_client, request)
        # Only what was signed takes a place in the log.
        command = UseAssertion(
            client_id=client.client.id,
            assertion_id=shaped(hashlib.sha256(claims["jti"].encode("utf-8", "surrogatepass")).digest()),
            until=datetime.fromtimestamp(claims["exp"], UTC),
        )
        if self._authority.ask_from_thread(command, request.visit).content["outcome"] != "accepted":
            raise InvalidClientError(description="This assertion was used before.")
        return client

    def extract_assertion(self, assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            headers, claims = super().extract_assertion(assertion)
        except (ValueError, RecursionError):
            # What is no base64 or no JSON is not always caught by the library.
            raise InvalidClientError(description="The assertion can't be read.") from None
        return headers, claims

    def get_audiences(self) -> list[str]:
        return [f"{self._authority.issuer}/oauth/token"]

    def resolve_client_public_key(self, client: ClientOf) -> KeySet:
        keys = client.client.details.keys
        if not keys:
            raise InvalidClientError(description="This client has no keys.")
        return KeySet.import_key_set({"keys": [key.jwk() for key in keys]})

    def process_assertion_claims(self, assertion: str, resolve_key: KeySet) -> dict[str, Any]:
        """A key serves the one algorithm that it is registered with, and none that the assertion picks."""
        try:
            token = jwt.decode(assertion, resolve_key, algorithms=ALGORITHMS)
            named = [key for key in resolve_key.keys if key.kid == token.header.get("kid")]
            if not named or named[0].get("alg") != token.header["alg"]:
                raise InvalidClientError(description="The assertion is not signed by a key of this client's.")
            self.verify_claims(token.claims)
        except (JoseError, ValueError, TypeError, KeyError):
            raise InvalidClientError(description="The assertion is not valid.") from None
        return dict(token.claims)

    def verify_claims(self, claims: dict[str, Any]) -> None:
        now = self._authority.now()
        rules = jwt.JWTClaimsRegistry(
            now=int(now.timestamp()),
            leeway=int(_LEEWAY.total_seconds()),
            iss={"essential": True, "value": claims["sub"]},
            sub={"essential": True},
            aud={"essential": True, "values": self.get_audiences()},
            exp={"essential": True},
            jti={"essential": True},
        )
        rules.validate(claims)
        until, jti = claims["exp"], claims["jti"]
        # So put that what is no number at all, as JSON of some makers has it, is refused too.
        if not until <= (now + LIFETIME + _LEEWAY).timestamp():
            raise InvalidClientError(description="An assertion runs out within five minutes.")
        if not isinstance(jti, str) or not 0 < len(jti) <= _LONGEST_ID:
            raise InvalidClientError(description="An assertion has an id of at most 200 characters.")
