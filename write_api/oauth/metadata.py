"""What the authorization server says about itself. In: its issuer and keys. Out: the documents of OpenID Connect
Discovery 1.0, RFC 8414, SMART App Launch 2.2 and RFC 7517."""

from __future__ import annotations

import base64
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from domain import scopes
from domain.client import Grant
from write_api.oauth.assertions import ALGORITHMS
from write_api.oauth.authority import Authority, Keys
from write_api.oauth.server import ALGORITHM, ANY, CONFIDENTIAL

_SCOPES: Final = [*sorted(scopes.PLAIN), "patient/*.cruds", "user/*.cruds", "system/*.cruds"]
_CLAIMS: Final = ("sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "amr", "sid", "at_hash", "fhirUser", "email")
# SMART App Launch 2.2 §7.1: what an app may count on.
_CAPABILITIES: Final = [
    "launch-standalone",
    "client-public",
    "client-confidential-symmetric",
    "client-confidential-asymmetric",
    "sso-openid-connect",
    "context-standalone-patient",
    "permission-offline",
    "permission-online",
    "permission-patient",
    "permission-user",
    "permission-v1",
    "permission-v2",
]


def server(authority: Authority) -> dict[str, Any]:
    """RFC 8414 §2, with RFC 9207 §3."""
    at = f"{authority.issuer}/oauth"
    return {
        "issuer": authority.issuer,
        "authorization_endpoint": f"{at}/authorize",
        "token_endpoint": f"{at}/token",
        "jwks_uri": f"{at}/jwks",
        "revocation_endpoint": f"{at}/revoke",
        "introspection_endpoint": f"{at}/introspect",
        "scopes_supported": _SCOPES,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": [grant.value for grant in Grant],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "token_endpoint_auth_methods_supported": ANY,
        "revocation_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "revocation_endpoint_auth_methods_supported": ANY,
        "introspection_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "introspection_endpoint_auth_methods_supported": CONFIDENTIAL,
        "authorization_response_iss_parameter_supported": True,
    }


def provider(authority: Authority) -> dict[str, Any]:
    """OpenID Connect Discovery 1.0 §3, and RP-Initiated Logout 1.0 §2.1."""
    at = f"{authority.issuer}/oauth"
    return server(authority) | {
        "userinfo_endpoint": f"{at}/userinfo",
        "end_session_endpoint": f"{at}/end-session",
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
        "claims_supported": list(_CLAIMS),
        "prompt_values_supported": ["none", "login", "consent"],
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
        "claims_parameter_supported": False,
    }


def smart(authority: Authority) -> dict[str, Any]:
    """SMART App Launch 2.2 §7."""
    said = server(authority)
    wanted = (
        "issuer",
        "jwks_uri",
        "authorization_endpoint",
        "token_endpoint",
        "revocation_endpoint",
        "introspection_endpoint",
        "token_endpoint_auth_methods_supported",
        "token_endpoint_auth_signing_alg_values_supported",
        "grant_types_supported",
        "scopes_supported",
        "response_types_supported",
        "code_challenge_methods_supported",
    )
    return {name: said[name] for name in wanted} | {"capabilities": _CAPABILITIES}


def jwks(keys: Keys) -> dict[str, Any]:
    """Every key that verifies, the one that signs now among them (RFC 7517 §5, RFC 8037 §2)."""
    told = []
    for key_id in keys:
        raw = keys[key_id].public_bytes(Encoding.Raw, PublicFormat.Raw)
        x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        told.append({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": key_id, "use": "sig", "alg": ALGORITHM})
    return {"keys": told}
